// A client of the mesh in Go: `client xds:///echo`, with GRPC_XDS_BOOTSTRAP set.
//
// Each line of its input is a call, a method and `name value` pairs of metadata; each line of its
// output is the answer to one, as JSON: the status code and who answered.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds" // the xds:/// scheme
	"google.golang.org/protobuf/types/known/emptypb"
)

func main() {
	channel, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
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
		})
	}
}
