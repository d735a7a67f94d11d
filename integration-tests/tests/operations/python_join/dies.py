#!/usr/bin/env -S python3 -B
"""An incumbent that dies when a successor has its control socket and its lock, and has not all. Its one argument is
the path of the control socket."""
import fcntl, os, socket, sys

sys.path.insert(0, os.environ["PYTHON_JOIN"])
from link import Link

path = sys.argv[1]
lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX)
os.pwrite(lock, b"running\n", 0)
control = socket.socket(socket.AF_UNIX)
os.umask(0o177)
control.bind(path)
control.listen()
print(f"serving generation=1 pid={os.getpid()} http=127.0.0.1:1", flush=True)
link = Link(control.accept()[0])
link.next(5)
terms = {"version": 1, "features": [], "lease_ms": 60000, "handoff": "0badcafe", "generation": 2}
us = {"instance": "0" * 32, "pid": os.getpid(), "version": "v1", "name": "dies"}
link.say({"parameters": {**terms, "incumbent": us, "incumbent_generation": 1}})
link.say({"type": "control", "batch": 1}, [control.fileno(), lock])
link.expect(5, "received")
