// Requests over one connection of HTTP/2, eight at a time, and one stream of events after the other, in
// which none may be missing, until standard input ends; with a certificate over TLS.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
)

var answered, events, failed, connections, over int64

func dial(network, address string) (net.Conn, error) {
	atomic.AddInt64(&connections, 1)
	return net.Dial(network, address)
}

// What Go has itself over TLS, and what it needs without.
func service() (string, http.RoundTripper) {
	if len(os.Args) < 3 {
		plain := func(network, address string, _ *tls.Config) (net.Conn, error) { return dial(network, address) }
		return "http://" + os.Args[1], &http2.Transport{AllowHTTP: true, DialTLS: plain}
	}
	trusted := x509.NewCertPool()
	certificate, err := os.ReadFile(os.Args[2])
	if err != nil || !trusted.AppendCertsFromPEM(certificate) {
		panic(fmt.Sprint("no certificate: ", err))
	}
	config := &tls.Config{RootCAs: trusted}
	return "https://" + os.Args[1], &http.Transport{Dial: dial, TLSClientConfig: config, ForceAttemptHTTP2: true}
}

func isOver() bool { return atomic.LoadInt64(&over) == 1 }

func check(err error) {
	if err != nil {
		atomic.AddInt64(&failed, 1)
		fmt.Println("failed:", err)
	}
}

func echo(client *http.Client, url string, n int) error {
	body := bytes.Repeat([]byte("x"), n*7919%20000)
	answer, err := client.Post(url+"/echo", "text/plain", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	heard, err := io.ReadAll(answer.Body)
	if err == nil && (answer.ProtoMajor != 2 || answer.StatusCode != 200 || !bytes.Equal(heard, body)) {
		err = fmt.Errorf("%s %s, %d bytes instead of %d", answer.Proto, answer.Status, len(heard), len(body))
	}
	atomic.AddInt64(&answered, 1)
	return err
}

func listen(client *http.Client, url string) error {
	answer, err := client.Get(url + "/events")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	lines, next := bufio.NewScanner(answer.Body), 0
	for lines.Scan() && !isOver() {
		if !strings.HasPrefix(lines.Text(), "data: ") {
			continue
		}
		if lines.Text() != fmt.Sprint("data: ", next) {
			return fmt.Errorf("%s instead of %d", lines.Text(), next)
		}
		next++
		atomic.AddInt64(&events, 1)
	}
	return lines.Err()
}

func main() {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		atomic.StoreInt64(&over, 1)
	}()
	url, transport := service()
	client := &http.Client{Transport: transport}
	// Until it has an answer, each request would open a connection.
	check(echo(client, url, 1))
	var all sync.WaitGroup
	again := func(one func(n int) error) {
		defer all.Done()
		for n := 1; !isOver(); n++ {
			check(one(n))
		}
	}
	all.Add(9)
	for n := 0; n < 8; n++ {
		go again(func(n int) error { return echo(client, url, n) })
	}
	go again(func(int) error { return listen(client, url) })
	all.Wait()
	fmt.Printf("answered=%d events=%d failed=%d connections=%d\n", answered, events, failed, connections)
}
