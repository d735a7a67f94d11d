// Calls and streams of gRPC over one connection until standard input ends; with a certificate over TLS.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

var answered, failed, connections, over int64

// Messages are bytes.
type raw struct{}

func (raw) Marshal(message interface{}) ([]byte, error) { return *message.(*[]byte), nil }
func (raw) Unmarshal(bytes []byte, message interface{}) error {
	*message.(*[]byte) = append([]byte(nil), bytes...)
	return nil
}
func (raw) Name() string { return "proto" }

func connect() *grpc.ClientConn {
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		atomic.AddInt64(&connections, 1)
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	// A call that is refused before it has begun would be made again, and nothing would be seen of it.
	options := []grpc.DialOption{grpc.WithContextDialer(dial), grpc.WithDisableRetry(), grpc.WithBlock()}
	options = append(options, grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	if len(os.Args) > 2 {
		trusts, err := credentials.NewClientTLSFromFile(os.Args[2], "")
		if err != nil {
			panic(err)
		}
		options = append(options, grpc.WithTransportCredentials(trusts))
	} else {
		options = append(options, grpc.WithInsecure())
	}
	connection, err := grpc.Dial(os.Args[1], options...)
	if err != nil {
		panic(err)
	}
	return connection
}

func one(ctx context.Context, connection *grpc.ClientConn) error {
	name, greeting := []byte("\x0a\x03you"), []byte(nil)
	err := connection.Invoke(ctx, "/greeter.Greeter/Greet", &name, &greeting)
	if err == nil && !bytes.Contains(greeting, []byte("hello you")) {
		err = fmt.Errorf("%q is not the greeting", greeting)
	}
	return err
}

func five(ctx context.Context, connection *grpc.ClientConn) error {
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/greeter.Greeter/Greetings")
	if err != nil {
		return err
	}
	// The name, five of them, each after 5 ms.
	series := []byte("\x0a\x03you\x18\x05\x20\x05")
	if err := stream.SendMsg(&series); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for number := byte(1); ; number++ {
		var greeting []byte
		err := stream.RecvMsg(&greeting)
		if err == io.EOF && number == 6 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("greeting %d: %w", number, err)
		}
		if greeting[12] != number {
			return fmt.Errorf("greeting %d instead of %d", greeting[12], number)
		}
	}
}

func main() {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		atomic.StoreInt64(&over, 1)
	}()
	connection := connect()
	var all sync.WaitGroup
	for _, call := range []func(context.Context, *grpc.ClientConn) error{one, one, one, five, five} {
		call := call
		all.Add(1)
		go func() {
			defer all.Done()
			for atomic.LoadInt64(&over) == 0 {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				if err := call(ctx, connection); err != nil {
					atomic.AddInt64(&failed, 1)
					fmt.Println("failed:", err)
				} else {
					atomic.AddInt64(&answered, 1)
				}
				cancel()
			}
		}()
	}
	all.Wait()
	fmt.Printf("answered=%d failed=%d connections=%d\n", answered, failed, connections)
}
