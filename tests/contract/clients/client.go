// Prints the status and body of each of several answers: over one connection, then over one each.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	for _, close := range []bool{false, true} {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: close}}
		for _, body := range os.Args[2:] {
			answer, err := client.Post(os.Args[1], "application/json", strings.NewReader(body))
			if err != nil {
				panic(err)
			}
			text, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			fmt.Println(answer.StatusCode, string(text))
		}
	}
}
