"""Requests over one connection of HTTP/2 until standard input ends, with a certificate over TLS: how many were
answered, and how many failed."""
import ssl, sys, threading, httpx

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
answered = failed = 0
tls = len(sys.argv) > 2
trusts = ssl.create_default_context(cafile=sys.argv[2]) if tls else True
url = f"{'https' if tls else 'http'}://{sys.argv[1]}/version"
with httpx.Client(http1=False, http2=True, timeout=20, verify=trusts) as client:
    while not over.is_set():
        try:
            answer = client.get(url)
            answered += answer.status_code == 200 and answer.http_version == "HTTP/2"
        except Exception as error:
            failed += 1
            print("failed:", repr(error))
print(f"answered={answered} failed={failed}")
