"""Requests over one connection of HTTP/2 until standard input ends: how many were answered, and how many failed."""
import sys, threading, httpx

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
answered = failed = 0
with httpx.Client(http1=False, http2=True, timeout=20) as client:
    while not over.is_set():
        try:
            answer = client.get(f"http://{sys.argv[1]}/version")
            answered += answer.status_code == 200 and answer.http_version == "HTTP/2"
        except Exception as error:
            failed += 1
            print("failed:", repr(error))
print(f"answered={answered} failed={failed}")
