#!/usr/bin/env -S python3 -B
"""A web service that takes over from a version that runs, in whatever language that one is written, and hands
over to the next one. What is said between them is in peer.py."""

import argparse, os, signal, sys, threading, time

from link import Failed
from peer import Peer


def respond(sock):
    """One request of one client."""
    with sock, sock.makefile("rb") as lines:
        request = lines.readline().split()
        while lines.readline().strip():
            pass
        if len(request) == 3:
            time.sleep(float(request[1].partition(b"sleep=")[2] or 0))
            body = f"ospid:{os.getpid()}\n"
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            sock.sendall((head + body).encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8080", help="where to listen for HTTP")
    parser.add_argument("--control", required=True, help="the path of the control socket")
    parser.add_argument("--app-version", default="python", help="what operators see")
    parser.add_argument("--standby", action="store_true", help="take over when `hotctl handoff` says so")
    parser.add_argument("--fail", action="store_true", help="be a version that does not get ready")
    args = parser.parse_args()
    host, _, port = args.listen.rpartition(":")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    peer = Peer(args.control, args.app_version, "http", (host, int(port)), respond)
    try:
        peer.start(
            args.standby, warm_up=lambda: sys.exit("service.py: it does not get ready") if args.fail else None
        )
    except Failed as error:
        sys.exit(f"service.py: {error}")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    peer.stop()
    threading.Event().wait()  # until what is in flight has ended


if __name__ == "__main__":
    main()
