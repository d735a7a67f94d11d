"""Calls and streams of gRPC over one connection until standard input ends; with a certificate over TLS."""
import sys, threading, grpc

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
# A call that is refused before it has begun would be made again, and nothing would be seen of it.
options = [("grpc.enable_retries", 0)]
if len(sys.argv) > 2:
    with open(sys.argv[2], "rb") as certificate:
        trusts = grpc.ssl_channel_credentials(root_certificates=certificate.read())
    channel = grpc.secure_channel(sys.argv[1], trusts, options=options)
else:
    channel = grpc.insecure_channel(sys.argv[1], options=options)
greet = channel.unary_unary("/greeter.Greeter/Greet")
greetings = channel.unary_stream("/greeter.Greeter/Greetings")
lock, counts = threading.Lock(), {"answered": 0, "failed": 0}

def count(call):
    while not over.is_set():
        try:
            call()
            what = "answered"
        except (AssertionError, grpc.RpcError) as error:
            print("failed:", repr(error))
            what = "failed"
        with lock:
            counts[what] += 1

def one():
    assert b"hello you" in greet(b"\x0a\x03you", timeout=20)

def five():
    # name, five of them, each after 5 ms; the number of a greeting is its second field
    numbers = [greeting[12] for greeting in greetings(b"\x0a\x03you\x18\x05\x20\x05", timeout=20)]
    assert numbers == [1, 2, 3, 4, 5], numbers

threads = [threading.Thread(target=count, args=[call]) for call in (one, one, one, five)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(" ".join(f"{what}={n}" for what, n in counts.items()))
