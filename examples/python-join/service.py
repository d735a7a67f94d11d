#!/usr/bin/env -S python3 -B
"""A web service that takes over from the version that runs, and hands over to the next one, in whatever
language these are written: ../../crates/hotupdate-proto/PROTOCOL.md in Python."""

import argparse, contextlib, fcntl, json, os, pathlib, signal, socket, socketserver, threading, time

# In seconds, as in the table of deadlines.
FIND, LEASE, STANDBY, SERVING, RELEASED, DRAIN, MOMENT = 30, 60, 3600, 2, 15, 60, 0.02
NOT_FOUND = "org.varlink.service.MethodNotFound"
REFUSALS = {
    "Join": ("io.hotupdate.Busy", "busy: another handoff is under way"),
    "Handoff": ("io.hotupdate.NoSuccessor", "no successor stands by; `hotctl handoff -- COMMAND` starts one"),
    "Rollback": ("io.hotupdate.NoPredecessor", "it gives nothing back; hand off to the old version instead"),
}


def say(link, *fds, **message):
    """A message is an object in JSON, and a byte 0. Descriptors ride on some."""
    data = json.dumps(message | {"fds": len(fds)}).encode() + b"\0"
    with contextlib.suppress(OSError):  # that the other process is dead is found by hearing
        link.sendall(data[socket.send_fds(link, [data], fds):])


def hear(link, *kinds, within=5):
    """The next message of one of these kinds, and its descriptors. Any other is passed over."""
    link.settimeout(within)
    message = {"type": ""}
    while message.get("type") not in kinds:
        if message.get("type") == "failed":
            raise ConnectionError(message["reason"])
        data, fds = b"", []
        while not data.endswith(b"\0"):
            there = link.recv(1 << 16, socket.MSG_PEEK)
            size = there.find(b"\0") + 1 or len(there)  # of one message, so that the descriptors are its own
            part, more, *_ = socket.recv_fds(link, size, 253, socket.MSG_CMSG_CLOEXEC)
            if not part:
                raise ConnectionResetError("the connection has ended")
            data, fds = data + part, fds + more
        message = json.loads(data[:-1])
    return message, fds


class Peer:
    """One process of the service, from its start to its end."""

    def __init__(self, args):
        self.args, self.issued = args, 1  # the greatest generation that was given
        process = {"instance": os.urandom(16).hex(), "pid": os.getpid(), "version": args.app_version}
        self.us = {"generation": 1, "process": process, "state": "starting"}
        self.us["attempt"] = os.environ.get("HOTUPDATE_ATTEMPT")
        self.links, self.before, self.after = [], [], None  # predecessors, and a successor, in the status
        self.busy = threading.Lock()
        self.http = socketserver.ThreadingTCPServer(None, Handler, bind_and_activate=False)
        self.control = socketserver.ThreadingTCPServer(None, self.answer, bind_and_activate=False)

    def start(self):
        """Joins the process that serves, or is the first: the one that has the lock."""
        flags, until = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, time.monotonic() + FIND
        while time.monotonic() < until:
            link = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(BlockingIOError, ConnectionResetError):  # look again
                if link.connect_ex(self.args.control) == 0:
                    return self.join(link)
                self.lock = os.open(self.args.control + ".lock", flags, 0o600)
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(self.lock, b"running\n")
                if pathlib.Path(self.args.control).is_socket():
                    os.unlink(self.args.control)  # of a process that has died
                os.umask(0o177)
                self.control.socket = socket.create_server(self.args.control, family=socket.AF_UNIX)
                self.claim(None)
                return self.serve()
            time.sleep(MOMENT)
        raise TimeoutError("no process answers on the control socket")

    def join(self, link):
        """Takes over from the process at the other end, and watches that to its end."""
        call = {key: self.us[key] for key in ("process", "attempt")} | {"versions": {"min": 1, "max": 1}}
        say(link, method="io.hotupdate.Join", upgrade=True, parameters=call)
        reply, _ = hear(link, None)
        joined, error = reply["parameters"], reply.get("error")
        if error:
            is_early = error in ("io.hotupdate.Starting", "io.hotupdate.NotServing")
            raise (ConnectionResetError if is_early else ConnectionError)(joined["reason"])
        batch, listener = {}, None
        while batch.get("type") != "control":
            batch, fds = hear(link, "listeners", "state", "links", "control")
            for item, fd in zip(batch.get("items", []), fds):
                if batch["type"] == "links":
                    say(socket.socket(fileno=fd), type="end_probation")  # it ends unseen
                elif (item["name"], item.get("kind")) == ("http", "tcp"):
                    listener = socket.socket(fileno=fd)
                else:
                    os.close(fd)
            say(link, type="received", batch=batch["batch"])
        self.control.socket, self.lock = socket.socket(fileno=fds[0]), fds[1]
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if it is another one
        self.claim(listener)
        say(link, type="ready", release="on_command" if self.args.standby else "now")
        with contextlib.suppress(ConnectionResetError):  # it is dead, and this process has everything
            released, _ = hear(link, "released", within=RELEASED + STANDBY * self.args.standby)
            if time.monotonic_ns() > released["stopped_at_ns"] + released["within_ms"] * 1_000_000:
                raise TimeoutError("it is too late: the other process serves again")
        process, generation = joined["incumbent"], joined["incumbent_generation"]
        before = {"generation": generation, "process": process, "state": "draining"}
        self.links, self.before = [link], [before]
        self.us["generation"] = self.issued = joined["generation"]
        self.serve()
        say(link, type="serving")
        with contextlib.suppress(ConnectionResetError):
            while (heard := hear(link, "progress", "failed", within=None)[0])["type"] == "progress":
                before["connections"] = heard["connections"]  # for operators
            self.park()  # the other process has not heard that this one serves, and does so itself
            self.leave(link)
        self.links, self.before = [], []

    def claim(self, listener):
        """Takes the listener over, or binds one. Nothing is accepted yet."""
        host, _, port = self.args.listen.rpartition(":")
        is_offered = listener and int(port) in (0, listener.getsockname()[1])
        self.http.socket = listener if is_offered else socket.create_server((host, int(port)), backlog=4096)
        address, origin = "%s:%s" % self.http.socket.getsockname(), "inherited" if is_offered else "bound"
        self.items = [{"name": "http", "kind": "tcp", "address": address, "origin": origin}]

    def serve(self):
        """Accepts, for the first time or again."""
        self.us["state"] = "serving"
        for server in self.http, self.control:
            server.socket.setblocking(False)
            threading.Thread(target=server.serve_forever, args=(MOMENT,)).start()
        at = "http=" + self.items[0]["address"]
        print(f"serving generation={self.us['generation']} pid={os.getpid()} {at}", flush=True)

    def park(self):
        """Accepts nothing more."""
        self.us["state"] = "draining"
        self.http.shutdown()
        self.control.shutdown()

    def answer(self, caller, *_):
        """A caller on the control socket: an operator, or a successor."""
        link = socket.socket(fileno=caller.detach())
        with link, contextlib.suppress(OSError):  # it has gone, or says nothing more
            while (call := hear(link, None)[0]) and self.us["state"] == "serving":
                method, after = call["method"].removeprefix("io.hotupdate."), self.after
                if method == "Join" and self.busy.acquire(blocking=False):
                    return self.hand_over(link, call["parameters"])
                if method == "Handoff" and after and after["state"] == "standby":
                    after["state"] = "starting"
                    while self.after is after:
                        time.sleep(MOMENT)
                    return  # the caller sees in the status how it has ended
                if method == "Status":
                    status = {"serving": self.us, "successor": after, "predecessors": self.before}
                    say(link, parameters={"status": status | {"listeners": self.items}})
                elif method == "Stop":
                    say(link, parameters={})
                    self.stop()
                else:
                    error, reason = REFUSALS.get(method, (NOT_FOUND, f"it does not know {method}"))
                    say(link, error=error, parameters={"reason": reason})

    def hand_over(self, link, join):
        """Gives the service to the process at the other end, and ends; or serves on."""
        self.issued += 1
        after = {"generation": self.issued, "process": join["process"], "attempt": join.get("attempt")}
        self.after, self.newer = after | {"state": "starting"}, link
        for older in self.links:
            say(older, type="end_probation")
        us = {"incumbent": self.us["process"], "incumbent_generation": self.us["generation"], "version": 1}
        say(link, parameters=us | {"generation": self.issued, "lease_ms": LEASE * 1000})
        try:
            say(link, self.http.fileno(), type="listeners", batch=1, items=self.items)
            hear(link, "received")
            say(link, self.control.fileno(), self.lock, type="control", batch=2)
            if hear(link, "ready", within=LEASE)[0].get("release") == "on_command":
                self.after["state"] = "standby"
            while self.after["state"] == "standby":  # until an operator says `Handoff`
                with contextlib.suppress(TimeoutError):
                    hear(link, within=MOMENT)
            self.park()
            say(link, type="released", stopped_at_ns=time.monotonic_ns(), within_ms=SERVING * 1000)
            hear(link, "serving", within=SERVING)
        except Exception as error:  # whatever the successor does, this process serves on
            say(link, type="failed", reason=str(error))
            if self.us["state"] != "serving":
                self.serve()
        self.after = None
        return self.busy.release() if self.us["state"] == "serving" else self.leave(link)

    def stop(self):
        """Ends the service: no other process goes on with it."""
        if self.us["state"] == "starting":
            os._exit(1)
        if self.after:
            self.newer.shutdown(socket.SHUT_RD)  # it is not heard any more: so its handoff fails
        self.busy.acquire()
        self.park()
        for older in self.links:
            say(older, type="farewell")
        os.pwrite(self.lock, b"stopped\n", 0)
        os.unlink(self.args.control)
        self.leave()

    def leave(self, *links):
        """Lets go of everything, and ends when every request has its answer."""
        for link in links:
            say(link, type="let_go")
        self.control.socket.close()
        os.close(self.lock)
        threading.Timer(DRAIN, os._exit, [0]).start()
        self.http.server_close()  # waits for them
        for link in links:
            say(link, type="drained", forced=0)
        print(f"drained generation={self.us['generation']} pid={os.getpid()} forced=0", flush=True)
        os._exit(0)


class Handler(socketserver.StreamRequestHandler):
    """One request of a client."""

    def handle(self):
        request = self.rfile.readline().decode()
        while self.rfile.readline().strip():
            pass
        time.sleep(float(request.partition("sleep=")[2].partition(" ")[0] or 0))
        head, body = "HTTP/1.1 200 OK\r\nconnection: close\r\n", f"ospid:{os.getpid()}\n"
        self.wfile.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8080", help="where to listen for HTTP")
    parser.add_argument("--control", required=True, help="the path of the control socket")
    parser.add_argument("--app-version", default="python", help="what operators see")
    parser.add_argument("--standby", action="store_true", help="wait for `hotctl handoff`")
    peer = Peer(parser.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=peer.stop).start())
    peer.start()
