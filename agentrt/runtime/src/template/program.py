# ruff: noqa: PTH100, PTH115, PTH120, PTH208
# (pathlib would lie in the memory of every agent.)
# What a template runs: it imports what its agents need, once, then it is forked from (or, without forks, waits itself).
import gc
import importlib
import json
import os
import sys

SOCKET = 3
#: Where orders to fork come, in an agent that may be forked.
FORKS = 4
#: Their hooks put locks and threads in order after a fork, and draw random numbers. The seed has one thread, holds no
#: lock when it is forked, and `become` draws anew; run in each fork they would write to 600 KiB of the seed's pages.
NEEDLESS_HOOKS = {"threading", "logging", "random", "concurrent.futures.thread"}
seeding = False
#: What `json.loads` comes to, without the Python around it, which would cost every agent 200 KiB.
SCAN = json.JSONDecoder().scan_once


def mind_the_hooks():
    """Whoever registers hooks for forks gets them run, but for those that forks of the seed do not need."""
    register = os.register_at_fork

    def unless_seeding(hook):
        def call():
            if not seeding:
                hook()

        return call

    def register_at_fork(**hooks):
        if sys._getframe(1).f_globals.get("__name__") in NEEDLESS_HOOKS:
            hooks = {when: unless_seeding(hook) for when, hook in hooks.items()}
        register(**hooks)

    os.register_at_fork = register_at_fork


def read_message(fd, limit=1 << 20):
    """One message: four bytes of length, and JSON. None where the other end is closed."""
    head = b""
    while len(head) < 4:
        part = os.read(fd, 4 - len(head))
        if not part:
            return None
        head += part
    length = int.from_bytes(head, "little")
    if length > limit:
        raise ValueError(f"a message of {length} bytes")
    body = bytearray()
    while len(body) < length:
        part = os.read(fd, length - len(body))
        if not part:
            return None
        body += part
    return SCAN(body.decode(), 0)[0]


def read_claim():
    """What to be, once it is settled that this process is it; None where whoever would have said so is gone."""
    claim = read_message(SOCKET)
    if claim is not None and os.read(SOCKET, 1) != b"g":
        claim = None
    os.close(SOCKET)
    return claim


def import_all(config, scope):
    for name in config["imports"]:
        importlib.import_module(name)
    if config["setup"]:
        exec(compile(config["setup"], "<setup>", "exec"), scope)
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate()[1:])
        raise RuntimeError(f"threads were left running, and a fork would not have them: {names}")


def native(path):
    from importlib.machinery import ExtensionFileLoader
    from importlib.util import module_from_spec, spec_from_file_location

    loader = ExtensionFileLoader("gpve_agent_seed", path)
    module = module_from_spec(spec_from_file_location("gpve_agent_seed", path, loader=loader))
    loader.exec_module(module)
    return module


def keep_secret(name, text):
    """A sealed file in memory, and the number of its descriptor."""
    import errno
    import fcntl

    fd = os.memfd_create(name, os.MFD_ALLOW_SEALING | getattr(os, "MFD_NOEXEC_SEAL", 8))
    os.write(fd, text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    for tries_left in range(20, -1, -1):
        try:
            fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4 | 0x8)  # F_ADD_SEALS: seal, shrink, grow, write
            break
        except OSError as error:
            # The kernel itself may hold a page for a moment.
            if not tries_left or error.errno != errno.EBUSY:
                raise
    os.set_inheritable(fd, True)
    return fd


def become(claim):
    """From here on this process is the agent's program."""
    # `os.environ` itself is a mapping written in Python, whose every method would write to pages of the seed.
    variables = os.environ._data
    if variables:
        os.environ.clear()
    for name, text in claim["env"].items():
        name, text = name.encode(errors="surrogateescape"), text.encode(errors="surrogateescape")
        os.putenv(name, text)
        variables[name] = text
    for name, text in claim["secrets"].items():
        os.environ[f"GPVE_SECRET_{name}_FD"] = str(keep_secret(name, text))
    if claim["cwd"]:
        os.chdir(claim["cwd"])
    draw_anew()


def draw_anew():
    """Each fork draws other numbers."""
    for name in ("numpy.random", "random"):
        module = sys.modules.get(name)
        if module is not None:
            module.seed()


def refuse_what_a_fork_would_lose():
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"there are {threads} threads, and a fork would have one")
    secrets = {int(fd) for name, fd in os.environ.items() if name.startswith("GPVE_SECRET_") and fd.isdigit()}
    for fd in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, FORKS} - secrets:
        try:
            where = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            # That of the listing itself.
            continue
        raise RuntimeError(f"descriptor {fd} ({where}) is open, and a fork would not have it")


def checkpoint_of(seed, config):
    """What agents find as `gpve_agent.checkpoint`."""

    def checkpoint():
        """Wait until the runtime forks this agent. Gives 0 here, and in the forks their numbers, from 1 on."""
        if not config["checkpoints"]:
            raise RuntimeError("the policy of this agent does not say checkpoints = true")
        refuse_what_a_fork_would_lose()
        sys.stdout.flush()
        sys.stderr.flush()
        if not seed.checkpoint(FORKS, config["plan"]):
            return 0
        os.set_inheritable(FORKS, False)
        told = read_claim()
        if told is None:
            os._exit(125)
        for name in [name for name in os.environ if name.startswith("GPVE_SECRET_")]:
            del os.environ[name]
        draw_anew()
        return told["number"]

    return checkpoint


def run(argv, scope):
    """As the interpreter does: -c CODE, -m MODULE, or a file."""
    main = type(sys)("__main__")
    main.__dict__.update(scope)
    sys.modules["__main__"] = main
    if argv[0] == "-c":
        sys.argv = ["-c", *argv[2:]]
        sys.path.insert(0, "")
        exec(compile(argv[1], "<string>", "exec"), main.__dict__)
        return
    import runpy

    if argv[0] == "-m":
        sys.argv = argv[1:]
        sys.path.insert(0, "")
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = argv
    sys.path.insert(0, os.path.dirname(os.path.abspath(argv[0])))
    runpy.run_path(argv[0], init_globals=scope, run_name="__main__")


def rehearse(scope):
    """What a claim does, often enough that the interpreter writes down now what it learns: later each fork would."""
    claim = json.dumps({"argv": ["-c", "pass"], "env": {"PATH": "/bin"}, "secrets": {}, "cwd": ""}).encode()
    before = (sys.argv, list(sys.path), sys.modules["__main__"])
    for _ in range(16):
        read, write = os.pipe()
        os.write(write, len(claim).to_bytes(4, "little") + claim)
        os.close(write)
        message = read_message(read)
        os.close(read)
        become(message)
        run(message["argv"], scope)
    # No fork has anything of it to clear.
    os.environ.clear()
    sys.argv, sys.path[:], sys.modules["__main__"] = before


def start():
    """Imports, then waits for a claim. Gives what is to be run, and what the setup has defined."""
    global seeding
    config = read_message(SOCKET)
    if config is None:
        sys.exit(0)
    scope = {}
    mind_the_hooks()
    try:
        import_all(config, scope)
        seed = native(config["library"]) if config["fork"] else None
    except BaseException as error:
        os.write(SOCKET, f"{type(error).__name__}: {error}".encode()[:2000])
        sys.exit(1)
    scope.pop("__builtins__", None)
    agent = type(sys)("gpve_agent")
    agent.checkpoint = checkpoint_of(seed, config)
    sys.modules["gpve_agent"] = agent
    rehearse(scope)
    gc.collect()
    gc.freeze()
    if seed is None:
        os.write(SOCKET, b"ready")
    else:
        seeding = True
        if seed.serve(SOCKET, config["plan"]) is None:
            sys.exit(0)
        seeding = False
    claim = read_claim()
    if claim is None:
        os._exit(125)
    if config["checkpoints"]:
        os.set_inheritable(FORKS, False)
    become(claim)
    return claim["argv"], scope


argv, scope = start()
run(argv, scope)
