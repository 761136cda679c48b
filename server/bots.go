package server

import (
	"context"
	"crypto/rand"
	"strconv"
	"sync"
	"time"

	repb "github.com/bazelbuild/remote-apis/build/bazel/remote/execution/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sarsen-build/sarsen/execution"
	pb "github.com/sarsen-build/sarsen/internal/botspb"
)

// bots lets workers that speak the Remote Workers API, such as buildbox-worker, run actions. They poll: each
// poll says how far their leases are, and is answered with what they should be.
type bots struct {
	*Server
	pb.UnimplementedBotsServer

	mu       sync.Mutex
	sessions map[string]*bot // by the name that the server gave
}

// A bot is a worker that polls.
type bot struct {
	session *execution.Session

	polled time.Time // under bots.mu

	mu     sync.Mutex           // held for a whole poll
	leases map[string]*pb.Lease // those that the bot has or is to get
}

const (
	// botWait is how long a poll of an idle bot may wait for an action.
	botWait = 20 * time.Second
	// botBusyWait is that of one that runs something, which has more to say soon.
	botBusyWait = time.Second
	// botMargin is what an answer needs to arrive within the bot's deadline.
	botMargin = 500 * time.Millisecond
	// botExpires is for how long a bot may say nothing. The scheduler's own limit is shorter than that.
	botExpires = time.Minute
)

// CreateBotSession registers a bot.
func (b *bots) CreateBotSession(ctx context.Context, req *pb.CreateBotSessionRequest) (*pb.BotSession, error) {
	said := req.GetBotSession()
	if said == nil {
		return nil, invalid("bot_session: missing")
	}
	name := "sessions/" + rand.Text()
	one, err := b.open(name, said)
	if err != nil {
		return nil, err
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	return b.answer(ctx, name, one, said)
}

// open registers a bot under a name. What it says to run already is nothing that the scheduler knows, as after a
// restart, and is to be stopped.
func (b *bots) open(name string, said *pb.BotSession) (*bot, error) {
	session, err := b.scheduler.Connect(execution.Registration{
		Name: said.GetBotId(), Session: name, Properties: offered(said.GetWorker()), Slots: capacityOf(said.GetWorker()),
	})
	if err != nil {
		return nil, err
	}
	one := &bot{session: session, polled: time.Now(), leases: map[string]*pb.Lease{}}
	for _, l := range said.GetLeases() {
		if l.State == pb.LeaseState_ACTIVE || l.State == pb.LeaseState_PENDING {
			one.leases[l.Id] = &pb.Lease{Id: l.Id, State: pb.LeaseState_CANCELLED}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, old := range b.sessions {
		if time.Since(old.polled) > 2*botExpires { // the scheduler has lost it long ago
			delete(b.sessions, name)
		}
	}
	b.sessions[name] = one
	return one, nil
}

// UpdateBotSession takes what a bot says, and answers with what it should do.
func (b *bots) UpdateBotSession(ctx context.Context, req *pb.UpdateBotSessionRequest) (*pb.BotSession, error) {
	b.mu.Lock()
	one := b.sessions[req.GetName()]
	if one != nil {
		one.polled = time.Now()
	}
	b.mu.Unlock()
	said := req.GetBotSession()
	if one == nil { // buildbox-worker ends when its session is not found
		var err error
		if one, err = b.open(req.GetName(), said); err != nil {
			return nil, err
		}
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.session.Heartbeat(execution.Load{}) // this poll may last nearly as long as the scheduler waits
	one.hear(said)
	if said.GetStatus() == pb.BotStatus_BOT_TERMINATING {
		one.session.Leave()
		b.forget(req.GetName())
		return said, nil
	}
	return b.answer(ctx, req.GetName(), one, said)
}

func (b *bots) forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, name)
}

// answer waits for instructions, for no longer than the bot does, and returns the session as it should be.
func (b *bots) answer(ctx context.Context, name string, one *bot, said *pb.BotSession) (*pb.BotSession, error) {
	wait := botWait
	if len(one.leases) > 0 {
		wait = botBusyWait
	}
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)-botMargin)
	}
	waiting, cancel := context.WithTimeout(ctx, max(wait, 0))
	defer cancel()
	defer context.AfterFunc(b.stopping, cancel)()
	for {
		i, err := one.session.Next(waiting)
		if err == nil {
			if err := one.obey(i); err != nil {
				return nil, err
			}
			expired, stop := context.WithCancel(ctx) // what else is there already comes along
			stop()
			waiting = expired
			continue
		}
		if ctx.Err() != nil { // a bot breaks off a poll when it has something to say
			return nil, ctx.Err()
		}
		if waiting.Err() == nil {
			b.forget(name)
			return nil, status.Errorf(codes.Unavailable, "bot session %q ended: %v; say again what runs", name, err)
		}
		break
	}
	one.session.Heartbeat(execution.Load{})
	session := &pb.BotSession{
		Name: name, BotId: said.GetBotId(), Status: said.GetStatus(), Worker: said.GetWorker(), Version: said.GetVersion(),
		ExpireTime: timestamppb.New(time.Now().Add(botExpires)),
	}
	for _, l := range one.leases {
		session.Leases = append(session.Leases, proto.CloneOf(l))
	}
	return session, nil
}

// hear takes what a bot says of its leases. What it has ended is answered and forgotten.
func (o *bot) hear(said *pb.BotSession) {
	has := map[string]bool{}
	for _, l := range said.GetLeases() {
		has[l.Id] = true
		mine := o.leases[l.Id]
		if mine == nil {
			continue
		}
		switch l.State {
		case pb.LeaseState_ACTIVE:
			if mine.State == pb.LeaseState_PENDING {
				mine.State = pb.LeaseState_ACTIVE
				o.session.Progress(l.Id, execution.Executing, new(repb.ExecutedActionMetadata))
			}
		case pb.LeaseState_COMPLETED, pb.LeaseState_CANCELLED:
			o.session.Complete(l.Id, responseOf(l))
			delete(o.leases, l.Id)
		}
	}
	for id, l := range o.leases {
		ended := status.New(codes.Canceled, "cancelled") // what a bot is told to cancel, it may just drop
		switch {
		case has[id] || l.State == pb.LeaseState_PENDING:
			continue
		case l.State == pb.LeaseState_ACTIVE:
			ended = status.New(codes.Unavailable, "the bot has the lease no more and did not say how it ended")
		}
		o.session.Complete(id, &repb.ExecuteResponse{Status: ended.Proto()})
		delete(o.leases, id)
	}
}

// responseOf returns what a lease that has ended says of its action.
func responseOf(l *pb.Lease) *repb.ExecuteResponse {
	response := &repb.ExecuteResponse{Status: l.Status}
	if l.Result == nil {
		if l.Status.GetCode() == 0 {
			response.Status = status.New(codes.Internal, "the bot completed the lease without a result").Proto()
		}
		return response
	}
	result := new(repb.ActionResult)
	if err := l.Result.UnmarshalTo(result); err != nil {
		response.Status = status.Newf(codes.Internal, "the bot's result can't be read: %v", err).Proto()
		return response
	}
	response.Result = result
	return response
}

// obey changes the leases as the scheduler says.
func (o *bot) obey(i execution.Instruction) error {
	switch i.Kind {
	case execution.Assign:
		payload, err := anypb.New(i.Action)
		if err != nil {
			return err
		}
		o.leases[i.ID] = &pb.Lease{Id: i.ID, State: pb.LeaseState_PENDING, Payload: payload}
	case execution.Cancel:
		if l := o.leases[i.ID]; l != nil {
			l.State = pb.LeaseState_CANCELLED
			return nil
		}
		o.session.Complete(i.ID, &repb.ExecuteResponse{Status: status.New(codes.Canceled, "cancelled").Proto()})
	}
	return nil
}

// capacityOf returns how many leases a bot takes at once, as buildbox-worker says it.
func capacityOf(w *pb.Worker) int {
	for _, c := range w.GetConfigs() {
		if n, err := strconv.Atoi(c.Value); err == nil && c.Key == "capacity" && n > 0 {
			return n
		}
	}
	return 1
}

// offered returns a bot's properties: its own and those of its first device.
func offered(w *pb.Worker) []*repb.Platform_Property {
	var ps []*repb.Platform_Property
	for _, p := range w.GetProperties() {
		ps = append(ps, &repb.Platform_Property{Name: p.Key, Value: p.Value})
	}
	if devices := w.GetDevices(); len(devices) > 0 {
		for _, p := range devices[0].Properties {
			ps = append(ps, &repb.Platform_Property{Name: p.Key, Value: p.Value})
		}
	}
	return ps
}
