#!/usr/bin/env -S python3 -B
"""A web service that takes over from the version that runs, and hands over to the next one, in
whatever language these are written: ../../crates/hotupdate-proto/PROTOCOL.md in Python."""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import signal
import socket
import socketserver
import threading
import time

# In seconds, as in the table of deadlines.
FIND, LEASE, STANDBY, SERVING, RELEASED, PROBATION, DRAIN = 30, 60, 3600, 2, 15, 5, 60
MOMENT = 0.02


class Link(socket.socket):
    """A conversation: objects in JSON with a byte 0 behind each, and descriptors with some."""

    data, fds, issued = b"", [], 0  # what was not heard yet, and the newest generation there is

    def say(self, fds=(), **message):
        data = json.dumps(message | {"fds": len(fds)}).encode() + b"\0"
        with contextlib.suppress(OSError):  # that the other process is dead is found by reading
            self.sendall(data[socket.send_fds(self, [data], fds):])

    def hear(self, *kinds, within=5):
        """The next message of these kinds, and its descriptors. Any other is passed over."""
        until, message = time.monotonic() + within, {"type": ""}
        while message.get("type") not in kinds:
            if message.get("type") in ("failed", "end_probation", "farewell"):
                raise ConnectionError(message.get("reason", "another version serves"))
            while b"\0" not in self.data:
                # With a timeout it is non-blocking for the kernel, as all that travels has to be.
                self.settimeout(max(until - time.monotonic(), 0.001))
                data, fds, *_ = socket.recv_fds(self, 1 << 16, 253, socket.MSG_CMSG_CLOEXEC)
                if not data:
                    raise ConnectionResetError("the other process is gone")
                self.data, self.fds = self.data + data, self.fds + fds
            frame, _, self.data = self.data.partition(b"\0")
            message = json.loads(frame)
            count, self.issued = message.get("fds", 0), message.get("generation", self.issued)
            owned, self.fds = self.fds[:count], self.fds[count:]
        return message, owned


class Peer:
    """One process of the service, from its start to its end."""

    def __init__(self, args, handler):
        self.args, self.path, self.issued = args, pathlib.Path(args.control).absolute(), 1
        who = {"instance": os.urandom(16).hex(), "pid": os.getpid(), "version": args.app_version}
        self.us = {"generation": 1, "process": who, "state": "starting"}
        self.us["attempt"] = os.environ.get("HOTUPDATE_ATTEMPT")
        self.older = []  # predecessors: the link to each, and what a status says of it
        self.next = self.failure = None  # a successor, and why the last one was none
        self.http = socketserver.ThreadingTCPServer(None, handler, bind_and_activate=False)
        self.control = socketserver.ThreadingTCPServer(None, self.answer, bind_and_activate=False)
        self.go, self.busy = threading.Event(), threading.Lock()
        self.busy.acquire()  # until it serves

    def start(self):
        """Joins the process that serves, or is the first."""
        folder, until = self.path.parent.stat(), time.monotonic() + FIND
        if folder.st_uid not in (0, os.geteuid()) or folder.st_mode & 0o022:
            raise PermissionError("another user can write to the folder of the control socket")
        while self.us["state"] == "starting":
            link = Link(socket.AF_UNIX)
            with contextlib.suppress(BlockingIOError, ConnectionResetError):  # look again
                if link.connect_ex(str(self.path)) == 0:
                    self.join(link)
                else:
                    self.be_first()
            if time.monotonic() > until and self.us["state"] == "starting":
                raise TimeoutError("no process answers on the control socket")
            time.sleep(MOMENT)

    def be_first(self):
        """Serves, if the lock is free: or else another process is about to."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self.lock = open(os.open(f"{self.path}.lock", flags, 0o600), "r+b", buffering=0)
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(self.lock.fileno()), os.stat(f"{self.path}.lock")):
            return  # another process has another file
        self.lock.write(b"running\n")
        if self.path.is_socket():  # it is of a process that has died
            self.path.unlink()
        self.control.socket = socket.socket(socket.AF_UNIX)
        os.umask(0o177)
        self.control.socket.bind(str(self.path))
        self.control.socket.listen(128)
        self.listen(None)
        self.serve()

    def join(self, link):
        """Takes over from the process at the other end, unless that is gone: look again."""
        call = {"versions": {"min": 1, "max": 1}} | {k: self.us[k] for k in ("process", "attempt")}
        link.say(method="io.hotupdate.Join", upgrade=True, parameters=call)
        reply, _ = link.hear(None)
        joined, error = reply["parameters"], reply.get("error")
        if error:
            is_early = error in ("io.hotupdate.Starting", "io.hotupdate.NotServing")
            raise (ConnectionResetError if is_early else ConnectionError)(joined["reason"])
        batch, listener, links = {}, None, []
        while batch.get("type") != "control":
            batch, fds = link.hear("listeners", "state", "links", "control")
            for offered, fd in zip(batch.get("items", []), fds):
                if batch["type"] == "links":
                    links.append(Link(fileno=fd))
                elif offered.get("kind") == "tcp" and offered["name"] == "http":
                    listener = socket.socket(fileno=fd)
                else:
                    os.close(fd)  # there is no use for it here
            link.say(type="received", batch=batch["batch"])
        self.control.socket = socket.socket(fileno=fds[0])
        self.lock = open(fds[1], "r+b", buffering=0)
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if it is another one
        self.listen(listener)
        self.us["generation"] = self.issued = joined["generation"]
        item = {"generation": joined["incumbent_generation"], "process": joined["incumbent"]}
        link.say(type="ready", release="on_command" if self.args.standby else "now")
        self.succeed(link, item, RELEASED + STANDBY * self.args.standby, links)

    def listen(self, listener):
        """Takes the listener over, or binds one. Nothing is accepted yet."""
        host, _, port = self.args.listen.rpartition(":")
        if not listener or int(port) not in (0, listener.getsockname()[1]):
            listener = socket.create_server((host, int(port)), backlog=4096)
        self.http.socket = listener

    def succeed(self, link, process, within, links=()):
        """Serves when the process at the other end has stopped or is dead; returns at its end."""
        message = {}
        with contextlib.suppress(ConnectionResetError):
            message, _ = link.hear("released", "resume", within=within)
        gap = time.monotonic_ns() - (message.get("stopped_at_ns") or time.monotonic_ns())
        if gap > message.get("within_ms", 1 << 62) * 1_000_000:
            raise TimeoutError("it is too late: the other process serves again")
        item = process | {"state": "draining", "probation": True}
        self.older.insert(0, (link, item))
        self.issued = max(self.issued, link.issued)
        self.serve()
        link.say(type="serving", gap_ns=gap)
        for older in links:  # they drain unseen
            older.say(type="end_probation")
            older.close()
        try:
            while True:
                kind = link.hear("let_go", "drained", within=1e6)[0]["type"]
                item |= {"state": "drained"} if kind == "drained" else {"probation": False}
        except ConnectionResetError:
            self.older.remove((link, item))
        except ConnectionError:  # it did not hear that this process serves, and accepts
            self.leave(link)

    def serve(self):
        """Accepts, for the first time or again."""
        if self.us["state"] != "serving":
            self.us["state"] = "serving"
            for server in self.http, self.control:
                server.socket.setblocking(False)
                threading.Thread(target=server.serve_forever, args=(MOMENT,)).start()
            at = "http=%s:%s" % self.http.socket.getsockname()
            print(f"serving generation={self.us['generation']} pid={os.getpid()} {at}", flush=True)
        self.next = None
        self.busy.release()

    def park(self):
        """Accepts nothing more."""
        if self.us["state"] == "serving":
            self.us["state"] = "draining"
            self.http.shutdown()
            self.control.shutdown()

    def answer(self, sock, *_):
        """A caller on the control socket: an operator, or a successor."""
        link = Link(fileno=sock.detach())
        with contextlib.suppress(OSError):  # it has gone, or says nothing more
            while (call := link.hear(None)[0]) and self.us["state"] == "serving":
                method, after = call["method"].removeprefix("io.hotupdate."), self.next
                join = call.get("parameters", {})
                if "process" in join and self.busy.acquire(blocking=False):
                    return self.hand_over(link, join["process"], join.get("attempt"))
                if method == "Status":
                    link.say(parameters={"status": self.status()})
                elif method == "Stop":
                    link.say(parameters={})
                    self.stop()
                elif method == "Handoff" and after and after["state"] == "standby":
                    self.go.set()
                    while self.next is after and after["state"] != "serving":
                        time.sleep(MOMENT)
                    break  # the caller sees in the status how it has ended
                else:
                    errors = {"Join": "io.hotupdate.Busy", "Handoff": "io.hotupdate.NoSuccessor"}
                    error = errors.get(method, "org.varlink.service.MethodNotFound")
                    link.say(error=error, parameters={"method": method, "reason": error})
        link.close()

    def status(self):
        """What operators see."""
        address = "%s:%s" % self.http.socket.getsockname()
        origin = "bound" if self.us["generation"] == 1 else "inherited"
        listener = {"name": "http", "kind": "tcp", "address": address, "origin": origin}
        status = {"serving": self.us, "listeners": [listener], "last_failure": self.failure}
        return status | {"successor": self.next, "predecessors": [item for _, item in self.older]}

    def hand_over(self, link, process, attempt):
        """Gives the service to the process at the other end, and ends; or serves on."""
        self.issued += 1
        after = {"generation": self.issued, "process": process, "attempt": attempt}
        self.next = after = after | {"state": "starting"}
        for older, _ in self.older:  # the next process does not get to know them
            older.say(type="issued", generation=self.issued)
            older.say(type="end_probation")
        us = {"incumbent": self.us["process"], "incumbent_generation": self.us["generation"]}
        terms = {"version": 1, "generation": self.issued, "lease_ms": LEASE * 1000}
        link.say(parameters=terms | us)
        try:
            items = self.status()["listeners"]
            link.say([self.http.fileno()], type="listeners", batch=1, items=items)
            link.hear("received")
            link.say([self.control.fileno(), self.lock.fileno()], type="control", batch=2)
            if link.hear("ready", within=LEASE)[0].get("release") == "on_command":
                self.stand_by(link)
            self.park()
            link.say(type="released", stopped_at_ns=time.monotonic_ns(), within_ms=SERVING * 1000)
            link.hear("serving", within=SERVING)
        except Exception as error:  # whatever the successor does, this process serves on
            link.say(type="failed", reason=str(error))
            why = {"successor": process, "stage": after["state"], "reason": str(error)}
            self.failure = after | why
            link.close()
            return self.serve()
        after["state"] = "serving"
        try:
            self.succeed(link, after, PROBATION)
        except OSError:
            self.leave(link)

    def stand_by(self, link):
        """Returns when an operator says so."""
        self.go.clear()
        self.next["state"], until = "standby", time.monotonic() + STANDBY
        while not self.go.wait(MOMENT):
            with contextlib.suppress(TimeoutError):
                link.hear(within=0)
            if time.monotonic() > until:
                raise TimeoutError("no operator said `Handoff`")

    def stop(self):
        """Ends the service: no other process goes on with it."""
        if self.us["state"] == "starting":
            os._exit(1)
        self.go.set()
        self.busy.acquire()  # a handoff that is under way ends first
        for older, _ in self.older:
            older.say(type="farewell")
        self.park()
        os.pwrite(self.lock.fileno(), b"stopped\n", 0)
        self.path.unlink()
        self.leave()

    def leave(self, *links):
        """Lets go of everything, and ends when every request has its answer."""
        self.park()
        for link in links:
            link.say(type="let_go")
        self.control.socket.close()
        self.lock.close()
        threading.Timer(DRAIN, os._exit, [0]).start()
        self.http.server_close()  # waits for them
        for link in links:
            link.say(type="drained", forced=0)
        print(f"drained generation={self.us['generation']} pid={os.getpid()} forced=0", flush=True)
        os._exit(0)


class Handler(socketserver.StreamRequestHandler):
    """One request of a client."""

    def handle(self):
        request = self.rfile.readline().decode()
        while self.rfile.readline().strip():
            pass
        time.sleep(float(request.partition("sleep=")[2].partition(" ")[0] or 0))
        body = f"ospid:{os.getpid()}\n"
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.wfile.write((head + body).encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8080", help="where to listen for HTTP")
    parser.add_argument("--control", required=True, help="the path of the control socket")
    parser.add_argument("--app-version", default="python", help="what operators see")
    parser.add_argument("--standby", action="store_true", help="wait for `hotctl handoff`")
    peer = Peer(parser.parse_args(), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=peer.stop).start())
    peer.start()


if __name__ == "__main__":
    main()
