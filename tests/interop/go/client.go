// A client of the mesh in Go: `client [--secure] xds:///echo`, with GRPC_XDS_BOOTSTRAP set.
//
// Each line of its input is a call, a method and `name value` pairs of metadata; each line of its
// output is the answer to one, as JSON: the status code, who answered, and what an error says.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds" // the xds:/// scheme
	"google.golang.org/protobuf/types/known/emptypb"
)

// xDS says whom to believe, and the bootstrap where our certificate is. Where xDS says nothing
// nobody is believed: it must not decide that a call is in plain text.
func mutualTLS() credentials.TransportCredentials {
	nobody := credentials.NewTLS(&tls.Config{RootCAs: x509.NewCertPool()})
	byXDS, err := xds.NewClientCredentials(xds.ClientOptions{FallbackCreds: nobody})
	if err != nil {
		log.Fatal(err)
	}
	return byXDS
}

func main() {
	secure := flag.Bool("secure", false, "call by mTLS")
	flag.Parse()
	transport := insecure.NewCredentials()
	if *secure {
		transport = mutualTLS()
	}
	channel, err := grpc.NewClient(flag.Arg(0), grpc.WithTransportCredentials(transport))
	if err != nil {
		log.Fatal(err)
	}
	answers := json.NewEncoder(os.Stdout)
	for calls := bufio.NewScanner(os.Stdin); calls.Scan(); {
		words := strings.Fields(calls.Text())
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		ctx = metadata.AppendToOutgoingContext(ctx, words[1:]...)
		trailer := metadata.MD{}
		err := channel.Invoke(ctx, words[0], &emptypb.Empty{}, &emptypb.Empty{}, grpc.Trailer(&trailer))
		cancel()
		answers.Encode(map[string]any{
			"code":     status.Code(err),
			"instance": strings.Join(trailer.Get("mesh-instance"), ""),
			"details":  status.Convert(err).Message(),
		})
	}
}
