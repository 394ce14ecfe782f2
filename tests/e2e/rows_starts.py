"""How people start a program that trains, how they stop it, and amid what it runs."""

from __future__ import annotations

import signal

from tests.e2e.programs import Row, send, type_interrupt

WITH = """
with connect() as worker:
    train(worker)
"""
FOREVER = """
with connect() as worker:
    forever(worker)
"""
SLEEPS = """
worker = connect()
train(worker)
print("ready", flush=True)
time.sleep(60)
"""
FORKS = """
import subprocess
def fork():
    for _ in range(20):
        subprocess.run(["true"], check=True)
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
with connect() as worker:
    begin(worker)
    helper = threading.Thread(target=fork)
    helper.start()
    go(worker)
    while helper.is_alive():
        go(worker)
"""
RESUMES = "(job '.*' exists and is at step .*\n)*"
TRACE = r"Traceback \(most recent call last\):\n((  .*)?\n)*"
INTERRUPTED = TRACE + "KeyboardInterrupt\n"
DROPPED = "worker 'w0' of job '.*' was dropped without leave\\(\\) or close\\(\\): its membership ends with its lease\n"

STARTED = {
    "a script": Row(WITH),
    "python -c": Row(WITH, "-c"),
    "a text on stdin": Row(WITH, "stdin"),
    "python -m": Row(WITH, "-m"),
    "in the background of a shell": Row(WITH, shell='"$@" & wait $!'),
    "under nohup, and the terminal is closed": Row(
        WITH.replace("train(worker)", "train(worker); print('ready', flush=True); sys.stdin.read(); go(worker)"),
        shell='exec nohup "$@"',
        stop=send(signal.SIGHUP),
        says="(nohup: .*\n)?",
        least=6,
    ),
    "under timeout": Row(SLEEPS, shell='exec timeout 4 "$@"', status=124, fates={"w0": "silent"}),
    "in a terminal": Row(
        "assert sys.stdin.isatty()" + WITH,
        shell='script -qec "$(printf "%s " "$@")" /dev/null </dev/null',
    ),
    "a child that is forked": Row(
        """
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=with_exit, args=(f"w{i}",)) for i in range(2)]
    [child.start() for child in children]
    [child.join() for child in children]
    assert [child.exitcode for child in children] == [0, 0]
""",
        says=RESUMES,
        fates={"w0": "gone", "w1": "gone"},
        least=6,
    ),
    "a child that is spawned": Row(
        """
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=with_exit)
    child.start(); child.join()
    assert child.exitcode == 0
""",
        fates={"w0": "gone"},
    ),
    "a child of a fork server": Row(
        """
if __name__ == "__main__":
    child = multiprocessing.get_context("forkserver").Process(target=with_exit)
    child.start(); child.join()
    assert child.exitcode == 0
""",
        fates={"w0": "gone"},
    ),
    "a pool of processes whose workers are never closed": Row(
        """
def work(place):
    global worker
    worker = connect(f"w{os.getpid()}")
    train(worker, optimd.Async())

if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(work, range(1)))
""",
        fates={},
    ),
    "a thread": Row(
        """
thread = threading.Thread(target=with_exit)
thread.start(); thread.join()
""",
        fates={"w0": "gone"},
    ),
    "threads with a worker each": Row(
        """
with ThreadPoolExecutor(3) as pool:
    list(pool.map(with_exit, ["w0", "w1", "w2"]))
""",
        says=RESUMES,
        fates={"w0": "gone", "w1": "gone", "w2": "gone"},
        least=9,
    ),
    "an event loop, each step on whatever thread": Row(
        """
async def main():
    with connect() as worker:
        begin(worker)
        seen = set()
        def step():
            seen.add(threading.get_ident())
            assert worker.step(ONES).status == "applied"
            note()
        pools = [ThreadPoolExecutor(1), ThreadPoolExecutor(1)]
        for place in range(20):
            await asyncio.get_running_loop().run_in_executor(pools[place % 2], step)
        assert len(seen) == 2
asyncio.run(main())
""",
        least=20,
    ),
    "cells of a notebook, one with an error, two run again": Row(
        """
import code
CELLS = [
    "worker = connect(); begin(worker)",
    "for step in range(3):\\n    worker.step(ONES); note()\\n    if step == 1: raise ValueError('mine')",
    "for step in range(3):\\n    worker.step(ONES); note()",
    "worker = connect(); begin(worker)",
    "for step in range(3):\\n    worker.step(ONES); note()",
    "worker.leave(); worker.close()",
]
notebook = code.InteractiveInterpreter(globals())
for cell in CELLS:
    notebook.runcode(compile(cell, "<cell>", "exec"))
""",
        says=TRACE + "ValueError: mine\n(" + DROPPED + "|job '.*' exists and is at step 5: .*\n){1,2}",
        least=8,
    ),
}

STOPPED = {
    "never closed": Row("worker = connect(); train(worker)", fates={"w0": "silent"}),
    "never closed, exits": Row("worker = connect(); train(worker); sys.exit(3)", status=3, fates={"w0": "silent"}),
    "never closed, raises": Row(
        "worker = connect(); train(worker); raise ValueError('mine')",
        status=1,
        says=TRACE + "ValueError: mine\n",
        fates={"w0": "silent"},
    ),
    "never closed, while a thread waits": Row(
        """
worker = connect()
train(worker, optimd.Sync(1))
other = connect("w1")
begin(other)
threading.Thread(target=go, args=(worker,), daemon=True).start()
while "waits for w1" not in other.status().waiting_for:
    time.sleep(0.02)
sys.exit(4)
""",
        status=4,
        says=RESUMES,
        fates={"w0": "silent", "w1": "silent"},
    ),
    "left at exit": Row("""
worker = connect()
atexit.register(worker.close)
atexit.register(worker.leave)
train(worker)
"""),
    "left in a finalizer of the module": Row(
        """
class Owner:
    def __init__(self):
        self.worker = connect()
    def __del__(self):
        self.worker.leave()
        self.worker.close()
owner = Owner()
train(owner.worker)
""",
        fates={"w0": "left"},
    ),
    "raises in its block": Row(
        WITH + "    raise ValueError('mine')", status=1, says=TRACE + "ValueError: mine\n", fates={"w0": "failed"}
    ),
    "exits well in its block": Row(WITH + "    sys.exit()"),
    "exits in its block": Row(WITH + "    sys.exit(5)", status=5, fates={"w0": "failed"}),
    "ends at once in its block": Row(WITH + "    os._exit(6)", status=6, fates={"w0": "silent"}),
    "is replaced by another program in its block": Row(
        WITH + "    os.execv('/bin/true', ['true'])", fates={"w0": "silent"}
    ),
    "closed twice, left after": Row(WITH + "worker.close(); worker.leave(); worker.close()"),
    "dropped": Row(
        """
worker = connect()
train(worker)
del worker
while any(thread.name.startswith("optimd") for thread in threading.enumerate()):
    time.sleep(0.05)
""",
        says=DROPPED,
        fates={"w0": "silent"},
    ),
    "a generator that is given up": Row("""
def steps():
    with connect() as worker:
        begin(worker)
        while True:
            yield worker.step(ONES)
for result in steps():
    note()
    if result.global_step == 3:
        break
"""),
    "SIGTERM": Row(FOREVER, stop=send(signal.SIGTERM), status=-signal.SIGTERM, fates={"w0": "silent"}),
    "SIGHUP": Row(FOREVER, stop=send(signal.SIGHUP), status=-signal.SIGHUP, fates={"w0": "silent"}),
    "SIGKILL": Row(FOREVER, stop=send(signal.SIGKILL), status=-signal.SIGKILL, fates={"w0": "silent"}),
    "SIGTERM that its program makes an exit of": Row(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))" + FOREVER, stop=send(signal.SIGTERM)
    ),
    "SIGINT": Row(FOREVER, stop=send(signal.SIGINT), status=-signal.SIGINT, says=INTERRUPTED, fates={"w0": "failed"}),
    "Ctrl-C in a terminal": Row(
        FOREVER,
        shell='exec script -qec "$(printf "%s " "$@")" /dev/null',
        stop=type_interrupt,
        status=128 + signal.SIGINT,
        fates={"w0": "failed"},
    ),
    "Ctrl-C while an event loop waits for a step": Row(
        """
async def main():
    with connect() as worker:
        await asyncio.to_thread(forever, worker)
asyncio.run(main())
""",
        stop=send(signal.SIGINT),
        status=-signal.SIGINT,
        says="(?s)Traceback.*KeyboardInterrupt\n",
        fates={"w0": "failed"},
    ),
    "forked in its block, and the child exits": Row(
        """
with connect() as worker:
    train(worker)
    child = os.fork()
    if child == 0:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    go(worker)
""",
        least=6,
    ),
    "forked, and the child uses the worker": Row(
        """
with connect() as worker:
    train(worker)
    child = os.fork()
    if child == 0:
        try:
            worker.step(ONES)
        except optimd.ForkedWorker as error:
            assert "connect again in the child" in str(error)
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    go(worker)
""",
        least=6,
    ),
    "forked many times while it trains": Row(
        FORKS, environment={"GRPC_ENABLE_FORK_SUPPORT": None}, says="(I.*fork_posix.*skipping fork.*\n)*"
    ),
    "forked many times without gRPC's fork handlers": Row(FORKS, environment={"GRPC_ENABLE_FORK_SUPPORT": "0"}),
    "started twice under one name": Row(
        """
with connect() as worker:
    train(worker)
    with connect() as second:
        train(second)
    worker.step(ONES)
""",
        status=1,
        says="(?s)" + RESUMES + TRACE + "optimd(pb)?.*EpochSuperseded: worker 'w0' joined again: .*",
        least=6,
    ),
}

# What a client compiles for bfloat16 it keeps below the home directory, where there is one.
COMPILES: dict[str, str | None] = {"ELEMENTS": "300000", "PUSH_DTYPE": "bfloat16"}
NOBODY = 54_321
BARE: dict[str, dict[str, str | None]] = {
    "no home": {**COMPILES, "HOME": None, "XDG_CACHE_HOME": None},
    "a home that is not there": {**COMPILES, "HOME": "/proc/nowhere", "XDG_CACHE_HOME": None},
    "no folder for temporary files": {"TMPDIR": "/nowhere"},
    "a proxy for everything": dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"), "http://[::1]:9"),
    "warnings are errors": {"PYTHONWARNINGS": "error"},
    "a language without umlauts": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}
SHELLS = {
    "an empty environment": 'exec env -i "$@"',
    "few descriptors": 'ulimit -n 40; exec "$@"',
    "little address space": 'ulimit -v 3000000; exec "$@"',
    "stdin closed": 'exec "$@" <&-',
    "stdout closed": 'exec "$@" >&-',
    "stderr closed": 'exec "$@" 2>&-',
    "its folder deleted": 'mkdir gone; cd gone; rmdir ../gone; exec "$@"',
}
AMID = {
    **{name: Row(WITH, environment=environment) for name, environment in BARE.items()},
    **{name: Row(WITH, shell=shell) for name, shell in SHELLS.items()},
    "a user without a name who may write nowhere": Row(
        WITH, shell=f'HOME=/proc exec setpriv --reuid={NOBODY} --clear-groups "$@"', environment=COMPILES
    ),
}
