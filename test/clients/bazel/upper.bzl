"""A rule whose tool can be a persistent worker."""

def _upper_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".out")
    args = ctx.actions.args()
    args.add(ctx.file.src)
    args.add(out)
    args.use_param_file("@%s", use_always = True)
    args.set_param_file_format("multiline")
    ctx.actions.run(
        executable = ctx.file._tool,
        tools = [ctx.file._tool],
        arguments = (["--json"] if ctx.attr.json else []) + [args],
        inputs = [ctx.file.src],
        outputs = [out],
        mnemonic = "Upper",
        execution_requirements = {"supports-workers": "1", "requires-worker-protocol": "json" if ctx.attr.json else "proto"},
    )
    return [DefaultInfo(files = depset([out]))]

upper = rule(
    implementation = _upper_impl,
    attrs = {
        "src": attr.label(allow_single_file = True),
        "json": attr.bool(),
        "_tool": attr.label(default = "//:upper.py", allow_single_file = True, cfg = "exec"),
    },
)
