// An ext_proc server that lets headers and whole request bodies pass, as many of the first servers do.
//
// It answers every other message with an empty ProcessingResponse. It has the standard library
// alone (Go 1.24 or later), so that it builds without a download: noop SOCKET.
package main

import (
	"encoding/binary"
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

// Fields of ProcessingRequest, and of ProcessingResponse for each (envoy/service/ext_proc/v3).
var answers = map[uint64]byte{
	2: 1, // request_headers
	3: 2, // response_headers
	4: 3, // request_body
}

// answer returns a response to the first known field of a message, with nothing in it.
func answer(message []byte) []byte {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		message = message[n:]
		if field, isKnown := answers[tag>>3]; isKnown {
			return []byte{field<<3 | 2, 0}
		}
		value, n := binary.Uvarint(message)
		message = message[n:]
		if tag&7 == 2 {
			message = message[value:]
		}
	}
	return nil
}

func process(writer http.ResponseWriter, request *http.Request) {
	writer.Header().Set("content-type", "application/grpc")
	for {
		var head [5]byte
		if _, err := io.ReadFull(request.Body, head[:]); err != nil {
			break
		}
		message := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(request.Body, message); err != nil {
			break
		}
		reply := answer(message)
		framed := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(reply)))
		writer.Write(append(framed, reply...))
		writer.(http.Flusher).Flush()
	}
	writer.Header().Set(http.TrailerPrefix+"grpc-status", "0")
}

func main() {
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(process), Protocols: new(http.Protocols)}
	server.Protocols.SetUnencryptedHTTP2(true)
	log.Fatal(server.Serve(listener))
}
