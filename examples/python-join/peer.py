"""A process that takes a service over and hands it over, as far as a peer needs it that names no feature. What is
said, and when, is in ../../crates/hotupdate-proto/PROTOCOL.md.

One thread accepts, and reads what predecessors say; a handoff has a thread of its own."""

import fcntl, os, secrets, socket, threading, time

from link import Failed, Link, cookie, option, ready, uid

FIND, REPLY, BATCH, LEASE, STANDBY, SERVING, RELEASED, PROBATION, DRAIN = 30, 5, 5, 60, 3600, 2, 15, 5, 60
MOMENT = 0.05
NONE = {"idle": 0, "active": 0, "upgraded": 0}


def known(generation, process, state, attempt=None):
    """A process, as a status has it."""
    name = {"attempt": attempt} if attempt else {}
    now = {"state": state, "since_ms": 0, "connections": NONE, "probation": False}
    return {"generation": generation, "process": process, **now, **name}


def now_ns():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Peer:
    def __init__(self, path, version, name, address, respond):
        self.path, self.name, self.address, self.respond = path, name, address, respond
        instance, called = secrets.token_hex(16), f"{socket.gethostname()}/{os.getpid()}"
        process = {"instance": instance, "pid": os.getpid(), "version": version, "name": called}
        self.us, self.issued = known(1, process, "starting", os.environ.get("HOTUPDATE_ATTEMPT")), 1
        self.next = self.failure = None  # a successor, and why the last one was none
        self.older = []  # predecessors, newest first: a link, and what is said of its other end
        self.lock = self.control = None
        self.is_open, self.gate, self.is_released = threading.Event(), threading.Lock(), threading.Event()
        self.handing_over = threading.Lock()

    # ---- taking over ---------------------------------------------------------------------------------------

    def start(self, standby, warm_up):
        """Returns when this process serves."""
        folder, until = os.stat(os.path.dirname(os.path.abspath(self.path))), time.monotonic() + FIND
        if folder.st_uid not in (0, os.geteuid()) or folder.st_mode & 0o022:
            raise Failed("another user can write to the folder of the control socket")
        while time.monotonic() < until:
            lock = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = os.path.samestat(os.fstat(lock), os.stat(self.path + ".lock"))
            except OSError:
                is_ours = False
            control = socket.socket(socket.AF_UNIX)
            try:
                control.connect(self.path)
                os.close(lock)
                if uid(control) not in (0, os.geteuid()):
                    raise Failed("another user has the control socket")
                if self.join(Link(control), standby, warm_up):
                    return
            except (ConnectionRefusedError, FileNotFoundError):
                if is_ours:
                    return self.be_first(lock, warm_up)
                os.close(lock)
            time.sleep(MOMENT)
        raise Failed("no process answers on the control socket")

    def be_first(self, lock, warm_up):
        if os.path.lexists(self.path):
            os.unlink(self.path)
        os.pwrite(lock, b"running\n", 0)
        self.lock, self.control, mask = lock, socket.socket(socket.AF_UNIX), os.umask(0o177)
        self.control.bind(self.path)
        os.umask(mask)
        self.control.listen(128)
        self.claim({})
        warm_up()
        self.serve()

    def join(self, link, standby, warm_up):
        """Takes over, or returns False: look again."""
        attempt = {"attempt": self.us["attempt"]} if "attempt" in self.us else {}
        call = {"versions": {"min": 1, "max": 1}, "process": self.us["process"], **attempt}
        link.say({"method": "io.hotupdate.Join", "upgrade": True, "parameters": call})
        reply, offered = link.next(REPLY), {}
        if reply.get("type") == "end" or reply.get("error", "").endswith((".Starting", ".NotServing")):
            return False
        if "error" in reply or "type" in reply:
            raise Failed(reply.get("parameters", {}).get("reason", "no answer to `Join`"))
        joined = reply["parameters"]
        self.us["generation"] = self.issued = joined["generation"]
        try:
            while True:
                batch, fds = link.expect(BATCH, "listeners", "state", "links", "control", "complete", "end")
                if batch["type"] == "end":  # it died before everything was here, which goes with it
                    self.lock = self.lock and os.close(self.lock)
                    self.control, self.older = None, []
                    return False
                if batch["type"] == "complete":
                    break
                self.keep(batch, fds, offered)
                link.say({"type": "received", "batch": batch["batch"]})
            names = self.claim(offered)
            warm_up()
            link.say({"type": "ready", **names, "release": "on_command" if standby else "now"})
            released, fds = link.expect(RELEASED + STANDBY * standby, "released", "end")
            gap = now_ns() - released.get("stopped_at_ns", 0)
            if gap >= released.get("within_ms", 1 << 64) * 1_000_000:
                raise Failed("it was released too long ago: the version before serves again")
        except Failed as error:
            link.say({"type": "failed", "reason": str(error)})
            raise
        for fd in fds + [listener.detach() for listener in offered.values()]:
            os.close(fd)
        if released["type"] == "end":  # the incumbent has died, and what it gave is enough
            self.serve()
            return True
        unread = {rest["generation"]: rest["unread"].encode("latin-1") for rest in released["links"]}
        for older, item in self.older:
            older.bytes = unread.get(item["generation"], b"")
        it = {"generation": joined["incumbent_generation"], "process": joined["incumbent"], "probation": True}
        self.older.insert(0, (link, {**it, "connections": released["connections"]}))
        self.serve()
        link.say({"type": "serving", "gap_ns": gap})
        return True

    def keep(self, batch, fds, offered):
        """Everything of the inventory, once it is what it is said to be."""
        if batch["type"] == "control":
            self.control, self.lock = socket.socket(fileno=fds[0]), fds[1]
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if it is not the one that is locked
        for item, fd in zip(batch.get("items", []), fds):
            if batch["type"] == "links":
                self.older.append((Link(socket.socket(fileno=fd)), item))
            elif item.get("kind") == "tcp":
                listener = offered[item["name"]] = socket.socket(fileno=fd)
                if cookie(listener) != item["cookie"] or option(listener, socket.SO_ACCEPTCONN, "i") != (1,):
                    raise Failed(f"the listener {item['name']} is not what it is said to be")
            else:
                os.close(fd)  # state of another program, and sockets that this one has no use for

    def claim(self, offered):
        """Takes the listener over, or binds it. Nothing is accepted yet."""
        known, (_, port) = offered.get(self.name), self.address
        is_adopted = known is not None and port in (0, known.getsockname()[1])
        self.http = offered.pop(self.name) if is_adopted else socket.create_server(self.address, backlog=4096)
        self.http.setblocking(False)
        names = {"adopted": [self.name] * is_adopted, "bound": [self.name] * (not is_adopted)}
        return {**names, "unclaimed": list(offered)}

    def serve(self):
        """Serves, for the first time or again."""
        self.us["state"], self.next = "serving", None
        self.control.setblocking(False)
        for link, _ in self.older[1:]:
            link.say({"type": "end_probation"})
        self.is_open.set()
        threading.Thread(target=self.run, daemon=True).start()
        address = "%s:%s" % self.http.getsockname()
        print(f"serving generation={self.us['generation']} pid={os.getpid()} http={address}", flush=True)

    def run(self):
        """Accepts, and reads predecessors, while the service is open."""
        while self.is_open.is_set():
            with self.gate:
                links = {link.sock: (link, item) for link, item in self.older}
                for sock in ready([self.http, self.control, *links], MOMENT) if self.is_open.is_set() else []:
                    if sock in links:
                        self.hear(*links[sock])
                        continue
                    try:
                        caller = sock.accept()[0]
                    except OSError:
                        continue  # it has gone, or another process was faster
                    target = self.respond if sock is self.http else self.answer
                    threading.Thread(target=target, args=(caller,), name=target.__name__, daemon=True).start()

    def hear(self, link, item):
        """What a predecessor says: all that has arrived, for the kernel does not tell of it twice."""
        while (message := link.next(0))["type"] not in ("late", "end"):
            if message["type"] == "failed" and item["probation"]:
                threading.Thread(target=self.leave).start()  # it did not hear that we serve, and accepts
            item["probation"] &= message["type"] != "let_go"
            item["drained"] = item.get("drained", False) or message["type"] == "drained"
            item["connections"] = message.get("connections", item["connections"])
        if message["type"] == "end":
            self.older.remove((link, item))

    # ---- operators -----------------------------------------------------------------------------------------

    def answer(self, sock):
        """Calls on the control socket, until one is a `Join`."""
        link = Link(sock)
        if uid(sock) not in (0, os.geteuid()):
            return link.say({"error": "io.hotupdate.NotAllowed", "parameters": {"reason": "another user"}})
        # Another process has the control socket when this one drains: callers connect anew.
        while (call := link.next(MOMENT)) != {"type": "end"} and self.us["state"] != "draining":
            method = call.get("method", "").removeprefix("io.hotupdate.")
            if method == "Join":
                return self.hand_over(link, call["parameters"])
            link.say(self.reply(method)) if method else None
            self.stop() if method == "Stop" else None  # the caller has its answer

    def reply(self, method):
        if method == "Status":
            return {"parameters": {"status": self.status()}}
        if method == "Stop":
            return {"parameters": {}}
        if method != "Handoff":
            return {"error": "org.varlink.service.MethodNotFound", "parameters": {"method": method}}
        after = self.next
        if not after or after["state"] != "standby":
            return {"error": "io.hotupdate.NoSuccessor", "parameters": {"reason": "no successor stands by"}}
        self.is_released.set()
        while self.next is after and self.us["state"] == "serving":
            time.sleep(MOMENT)
        if self.us["state"] == "serving":
            return {"error": "io.hotupdate.Failed", "parameters": {"reason": self.failure["reason"]}}
        changed = {"from": self.us["process"], "to": after["process"], "generation": after["generation"]}
        return {"parameters": changed}

    def status(self):
        def state(item):
            now = known(item["generation"], item["process"], "drained" if item.get("drained") else "draining")
            return {**now, "connections": item["connections"], "probation": item["probation"]}

        address = "%s:%s" % self.http.getsockname()
        origin = "bound" if self.us["generation"] == 1 else "inherited"
        listeners = [{"name": self.name, "kind": "tcp", "address": address, "origin": origin}]
        more = {"successor": self.next, "last_failure": self.failure}
        status = {
            "serving": self.us,
            "predecessors": [state(item) for _, item in self.older],
            "listeners": listeners,
        }
        return status | {name: value for name, value in more.items() if value}

    # ---- handing over --------------------------------------------------------------------------------------

    def hand_over(self, link, join):
        """To a successor, from its `Join` to the end of this process; or this one serves on."""
        if not self.handing_over.acquire(blocking=False):
            return link.say(
                {"error": "io.hotupdate.Busy", "parameters": {"reason": "a handoff is under way"}}
            )
        self.issued += 1
        self.next = successor = known(self.issued, join["process"], "starting", join.get("attempt"))
        for older, _ in self.older:
            older.say({"type": "issued", "generation": self.issued})
        us = {"incumbent": self.us["process"], "incumbent_generation": self.us["generation"]}
        terms = {"version": 1, "features": [], "lease_ms": LEASE * 1000, "handoff": secrets.token_hex(4)}
        link.say({"parameters": {**terms, **us, "generation": self.issued}})
        try:
            self.offer(link)
            if link.expect(LEASE, "ready")[0]["release"] == "on_command":
                self.wait_for_operator(link)
            stopped_at = self.park()
            links = [{"generation": item["generation"], "unread": older.bytes.decode("latin-1")}
                     for older, item in self.older]  # fmt: skip
            when = {"stopped_at_ns": stopped_at, "within_ms": SERVING * 1000}
            link.say({"type": "released", **when, "connections": NONE, "state": [], "links": links})
            link.expect(SERVING, "serving")
        except Failed as error:
            link.say({"type": "failed", "reason": str(error)})
            link.sock.close()
            why = {"stage": successor["state"], "reason": str(error), "successor": join["process"]}
            self.failure = {**why, **{k: successor[k] for k in ("generation", "attempt") if k in successor}}
            self.next = None
            self.serve() if not self.is_open.is_set() else None
            return self.handing_over.release()
        self.us["state"] = "draining"
        self.be_in_probation(link, {**successor, "probation": True})

    def offer(self, link):
        """The inventory, batch by batch."""
        address = "%s:%s" % self.http.getsockname()
        listener = {"name": self.name, "kind": "tcp", "address": address, "cookie": cookie(self.http)}
        batches = [({"type": "listeners", "items": [listener]}, [self.http.fileno()])]
        if self.older:
            links = {"type": "links", "items": [item for _, item in self.older]}
            batches.append((links, [older.sock.fileno() for older, _ in self.older]))
        batches.append(({"type": "control"}, [self.control.fileno(), self.lock]))
        for number, (batch, fds) in enumerate(batches, 1):
            link.say({**batch, "batch": number}, fds)
            link.expect(BATCH, "received")
        link.say({"type": "complete", "batches": len(batches)})

    def wait_for_operator(self, link):
        self.next["state"], until = "standby", time.monotonic() + STANDBY
        while not self.is_released.wait(MOMENT):
            message = link.next(0)
            if message["type"] != "late" or time.monotonic() > until:
                raise Failed(message.get("reason", "the successor is gone"))
        self.is_released.clear()

    def park(self):
        """When it returns, nothing is accepted any more, and no predecessor is read."""
        self.is_open.clear()
        with self.gate:
            return now_ns()

    def be_in_probation(self, link, successor):
        until = time.monotonic() + PROBATION
        while (left := until - time.monotonic()) > 0:
            kind = link.next(left)["type"]
            if kind == "resume":  # it gives the service back
                self.older.insert(0, (link, successor))
                link.say({"type": "serving"})
            if kind in ("resume", "end"):
                self.serve()
                return self.handing_over.release()
            if kind in ("end_probation", "farewell"):
                break
        link.say({"type": "let_go"})
        self.leave(link)

    def stop(self):
        """The service ends: no other process goes on with it."""
        if not self.handing_over.acquire(blocking=False):
            return None  # another process is about to
        for older, _ in self.older:
            older.say({"type": "farewell"})
        self.park()
        os.pwrite(self.lock, b"stopped\n", 0)
        os.unlink(self.path)
        self.leave()

    def leave(self, link=None):
        """Lets go of everything, and ends when no request is in flight any more."""
        self.park()
        for sock in self.http, self.control:
            sock.close()
        os.close(self.lock)
        until = time.monotonic() + DRAIN
        while any(thread.name == "respond" for thread in threading.enumerate()) and time.monotonic() < until:
            time.sleep(MOMENT)
        forced = sum(thread.name == "respond" for thread in threading.enumerate())
        if link:
            link.say({"type": "drained", "forced": forced})
        print(f"drained generation={self.us['generation']} pid={os.getpid()} forced={forced}", flush=True)
        os._exit(0)
