"""A server that knows sd_listen_fds(3) and sd_notify(3), and nothing else; each test says in the environment what it does.

GET /?sleep=SECONDS is answered with `ospid:PID`. SIGTERM: what is in flight is answered, then it ends with $EXIT.
"""
import os
import selectors
import signal
import socket
import sys
import threading
import time
import urllib.parse

if "LOOSE" not in os.environ and os.environ.get("LISTEN_PID") != str(os.getpid()):
    sys.exit("LISTEN_PID is %s, and not %d" % (os.environ.get("LISTEN_PID"), os.getpid()))
names = os.environ["LISTEN_FDNAMES"].split(":")
assert len(names) == int(os.environ["LISTEN_FDS"])
if not os.environ.get("WATCHED"):
    for name in ("HOTUPDATE_ATTEMPT", "WATCHDOG_USEC"):
        assert name not in os.environ, name
    assert os.environ.get("NOTIFY_SOCKET", "@").startswith("@"), "that of hotctl's own manager"
stopping = threading.Event()
wake, woken = os.pipe()
active = 0
lock = threading.Lock()


def serve(connection, name):
    global active
    with connection, connection.makefile("rb") as lines:
        while True:
            try:
                request, last = lines.readline(), False
                while header := lines.readline().strip():
                    last = last or header.lower() == b"connection: close"
            except OSError:
                return
            if not request:
                return
            with lock:
                active += 1
            query = urllib.parse.urlsplit(request.split()[1].decode()).query
            seconds = float(urllib.parse.parse_qs(query).get("sleep", ["0"])[0])
            if seconds:
                print("asked", os.getpid(), flush=True)
            time.sleep(seconds)
            health = os.environ.get("HEALTH")
            good = name != "ready" or not health or os.path.exists(health)
            body = b"ospid:%d\n" % os.getpid()
            how = b"close" if last or stopping.is_set() else b"keep-alive"
            head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n"
            try:
                connection.sendall(head % (b"200 OK" if good else b"503 Not Yet", len(body), how) + body)
            except OSError:
                pass
            with lock:
                active -= 1
            if how == b"close":
                return


def stop(*_):
    stopping.set()
    os.write(woken, b"x")


for number in (signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, stop if "DEAF" not in os.environ else signal.SIG_IGN)
signal.signal(signal.SIGUSR1, lambda *_: print("SIGUSR1", flush=True))
listeners = selectors.DefaultSelector()
listeners.register(wake, selectors.EVENT_READ)
for number, name in enumerate(names, 3):
    listener = socket.socket(fileno=number)
    assert not os.get_blocking(number), "it would wait in accept while another version has taken the client"
    listeners.register(listener, selectors.EVENT_READ, name)
if "NOTIFY_SOCKET" in os.environ and "SILENT" not in os.environ:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.sendto(b"STATUS=well\nREADY=1", "\0" + os.environ["NOTIFY_SOCKET"][1:])
if "DIES" in os.environ:
    threading.Timer(float(os.environ["DIES"]), lambda: os._exit(3)).start()
print("accepts", os.getpid(), flush=True)
while not stopping.is_set():
    for key, _ in listeners.select():
        if key.fileobj == wake:
            break
        try:
            connection, _ = key.fileobj.accept()
        except BlockingIOError:
            continue
        connection.setblocking(True)
        threading.Thread(target=serve, args=(connection, key.data), daemon=True).start()
while active:
    time.sleep(0.01)
os._exit(int(os.environ.get("EXIT", "0")))
