// An S3 server over a folder, for tests: VersityGW's posix backend, with Object Lock. Each request is
// a line of FOLDER/requests, as S3 writes it to an access log.
//
//	s3 FOLDER PORT
package main

import (
	"context"
	"log"
	"os"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	folder, port := os.Args[1], os.Args[2]
	for _, below := range []string{"data", "versions", "meta"} {
		if err := os.MkdirAll(folder+"/"+below, 0o700); err != nil {
			log.Fatal(err)
		}
	}
	beside, err := meta.NewSideCar(folder + "/meta")
	if err != nil {
		log.Fatal(err)
	}
	backend, err := posix.New(folder+"/data", beside, posix.PosixOpts{
		VersioningDir: folder + "/versions", SideCarDir: folder + "/meta",
	})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(embedgw.RunVersityGW(context.Background(), backend, &embedgw.Config{
		RootUserAccess: os.Getenv("AWS_ACCESS_KEY_ID"), RootUserSecret: os.Getenv("AWS_SECRET_ACCESS_KEY"),
		Ports: []string{"127.0.0.1:" + port}, Quiet: true, KeepAlive: true, AccessLog: folder + "/requests",
		MaxConnections: 256, MaxRequests: 256, MultipartMaxParts: 10000,
	}))
}
