package server

import (
	"fmt"
	"testing"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"

	pb "github.com/sarsen-build/sarsen/internal/botspb"
)

// A testBot polls as buildbox-worker does.
type testBot struct {
	r       *rig
	client  pb.BotsClient
	session *pb.BotSession
}

// bot registers a bot, and returns when it has something to do or has waited long.
func (r *rig) bot(pool string) *testBot {
	r.t.Helper()
	b := &testBot{r: r, client: pb.NewBotsClient(r.conn)}
	session, err := b.client.CreateBotSession(r.ctx, &pb.CreateBotSessionRequest{BotSession: &pb.BotSession{
		BotId: pool, Status: pb.BotStatus_OK, Worker: &pb.Worker{Properties: []*pb.Worker_Property{{Key: "pool", Value: pool}}},
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	b.session = session
	return b
}

// poll says what the bot has and hears what it should have.
func (b *testBot) poll() *pb.BotSession {
	b.r.t.Helper()
	session, err := b.client.UpdateBotSession(b.r.ctx, &pb.UpdateBotSessionRequest{Name: b.session.Name, BotSession: b.session})
	if err != nil {
		b.r.t.Fatal(err)
	}
	b.session = session
	return session
}

// pending polls until there is a lease to take, and takes it.
func (b *testBot) pending() *pb.Lease {
	b.r.t.Helper()
	for {
		for _, l := range b.poll().Leases {
			if l.State == pb.LeaseState_PENDING {
				l.State = pb.LeaseState_ACTIVE
				return l
			}
		}
	}
}

func (r *rig) pooled(pool string) *repb.Digest {
	a := &repb.Action{
		CommandDigest: r.message(&repb.Command{Arguments: []string{"echo", pool}}), InputRootDigest: r.message(new(repb.Directory)),
		Platform: &repb.Platform{Properties: []*repb.Platform_Property{{Name: "pool", Value: pool}}},
	}
	return r.message(a)
}

// TestBot: a bot takes a lease and completes it; what it drops without a word is tried again.
func TestBot(t *testing.T) {
	for _, drop := range []bool{false, true} {
		r := newExecutionRig(t)
		pool := fmt.Sprint("dropping ", drop)
		stream := r.execute(r.pooled(pool))
		b := r.bot(pool)
		lease := b.pending()
		action := new(repb.Action)
		if err := lease.Payload.UnmarshalTo(action); err != nil || action.CommandDigest == nil {
			t.Fatalf("payload: got %v, %v, want the action", action, err)
		}
		b.poll()
		if drop {
			b.session.Leases = nil
			again := b.pending()
			if again.Id == lease.Id {
				t.Errorf("a lease that was dropped is there again as it was")
			}
			b.poll()
			lease = again
		}
		result, err := anypb.New(&repb.ActionResult{StdoutRaw: []byte("said")})
		if err != nil {
			t.Fatal(err)
		}
		b.session.Leases = []*pb.Lease{{Id: lease.Id, State: pb.LeaseState_COMPLETED, Result: result}}
		go b.client.UpdateBotSession(r.ctx, &pb.UpdateBotSessionRequest{Name: b.session.Name, BotSession: b.session}) // waits for more
		if _, got := r.answer(stream); string(got.GetResult().GetStdoutRaw()) != "said" {
			t.Errorf("got %v, want what the bot said", got)
		}
	}
}

// TestBotWithoutSession: a bot that says nothing about itself is told so.
func TestBotWithoutSession(t *testing.T) {
	r := newExecutionRig(t)
	client := pb.NewBotsClient(r.conn)
	if _, err := client.CreateBotSession(r.ctx, new(pb.CreateBotSessionRequest)); codeOf(err) != codes.InvalidArgument {
		t.Errorf("without a session: got %v, want INVALID_ARGUMENT", err)
	}
	if _, err := client.UpdateBotSession(r.ctx, &pb.UpdateBotSessionRequest{Name: "sessions/none"}); codeOf(err) != codes.InvalidArgument {
		t.Errorf("an update without a session: got %v, want INVALID_ARGUMENT", err)
	}
}
