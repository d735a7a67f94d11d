"""What a conversation is written in: frames, and the descriptors that ride on them."""

import json, select, socket, struct, time


class Failed(Exception):
    """The attempt is over, and why."""


def ready(socks, within, event=select.POLLIN):
    """Those of the sockets that can be read, or written, as soon as there are any."""
    poll, by_number = select.poll(), {sock.fileno(): sock for sock in socks}
    for number in by_number:
        poll.register(number, event)
    return [by_number[number] for number, _ in poll.poll(max(0, within) * 1000)]


def option(sock, name, form):
    """An option of the level SOL_SOCKET."""
    return struct.unpack(form, sock.getsockopt(socket.SOL_SOCKET, name, struct.calcsize(form)))


def cookie(sock):
    """The kernel's number of a socket, SO_COOKIE."""
    return option(sock, 57, "Q")[0]


def uid(sock):
    """The user at the other end."""
    return option(sock, socket.SO_PEERCRED, "3i")[1]


class Link:
    """One end of a conversation: objects in JSON, a byte 0 behind each, and descriptors with some."""

    def __init__(self, sock):
        sock.setblocking(False)  # it may travel, and that stays so
        self.sock, self.bytes, self.fds, self.heard = sock, b"", [], []

    def say(self, message, fds=()):
        data = json.dumps({**message, "fds": len(fds)} if fds else message).encode() + b"\0"
        while data and ready([self.sock], 5, select.POLLOUT):
            try:
                data, fds = data[socket.send_fds(self.sock, [data], fds) :], ()
            except BlockingIOError:
                time.sleep(0.002)
            except OSError:
                return  # the other process is dead, which is found by reading

    def next(self, within):
        """The next message. That none came in time is one, and so is the end of the stream."""
        until = time.monotonic() + within
        while not self.heard:
            if not ready([self.sock], until - time.monotonic()):
                return {"type": "late"}
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 253, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                data, fds = b"", []
            self.fds += fds
            *frames, self.bytes = (self.bytes + data).split(b"\0")
            self.heard = [json.loads(frame) for frame in frames] if data else [{"type": "end"}]
        return self.heard.pop(0)

    def expect(self, within, *kinds):
        """The next message, which has to be one of these, and its descriptors."""
        message = self.next(within)
        if message.get("type") not in kinds:
            why = {"end": "the other process is gone", "late": f"no `{kinds[0]}` in time"}
            raise Failed(message.get("reason") or why.get(message.get("type")) or f"it said {message}")
        count = message.get("fds", 0)
        owned, self.fds = self.fds[:count], self.fds[count:]
        if len(owned) != count:
            raise Failed(f"`{message['type']}` came without its descriptors")
        return message, owned
