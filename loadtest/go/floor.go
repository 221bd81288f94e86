// An ext_proc server that checks nothing: the least CPU time of a request in Go.
//
// It requests the body, as Egret does, and sends headers and body on unchanged. It has the standard
// library alone (Go 1.24 or later), so that it builds without a download. `make bench-against`
// builds and runs it if Go is installed: floor SOCKET.
package main

import (
	"encoding/binary"
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

// Fields of ProcessingRequest, HttpHeaders and HttpBody (envoy/service/ext_proc/v3).
const (
	requestHeaders     = 2
	requestBody        = 4
	headersEndOfStream = 3
	body               = 1
	bodyEndOfStream    = 2
)

var (
	// ProcessingResponse.request_headers, empty.
	goOn = []byte{0x0a, 0x00}
	// ProcessingResponse.mode_override: response headers SKIP, body FULL_DUPLEX_STREAMED, trailers SEND.
	override = []byte{0x4a, 0x06, 0x10, 0x02, 0x18, 0x04, 0x28, 0x01}
	// grpc.health.v1.HealthCheckResponse: SERVING.
	serving = []byte{0x08, 0x01}
)

// fields calls visit with each field of a message: its number, and its bytes or its varint.
func fields(message []byte, visit func(number uint64, content []byte, varint uint64)) {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		message = message[n:]
		value, n := binary.Uvarint(message)
		message = message[n:]
		if tag&7 == 2 {
			visit(tag>>3, message[:value], 0)
			message = message[value:]
		} else {
			visit(tag>>3, nil, value)
		}
	}
}

// wrapped returns a message whose only field, of this number, is content.
func wrapped(number byte, content []byte) []byte {
	head := binary.AppendUvarint([]byte{number<<3 | 2}, uint64(len(content)))
	return append(head, content...)
}

// answers returns the messages that answer one of Envoy's, and whether they are the last. Headers
// go on with the first piece of a body, which may come in several.
func answers(message []byte, isFirst bool) (replies [][]byte, isLast bool) {
	fields(message, func(number uint64, content []byte, _ uint64) {
		switch number {
		case requestHeaders:
			fields(content, func(number uint64, _ []byte, varint uint64) {
				isLast = isLast || number == headersEndOfStream && varint == 1
			})
			replies = [][]byte{override}
			if isLast {
				replies = [][]byte{goOn}
			}
		case requestBody:
			var text []byte
			fields(content, func(number uint64, content []byte, varint uint64) {
				if number == body {
					text = content
				}
				isLast = isLast || number == bodyEndOfStream && varint == 1
			})
			streamed := wrapped(1, text)
			if isLast {
				streamed = append(streamed, 0x10, 0x01)
			}
			// BodyResponse.response.body_mutation.streamed_response
			if isFirst {
				replies = [][]byte{goOn}
			}
			replies = append(replies, wrapped(3, wrapped(1, wrapped(3, wrapped(3, streamed)))))
		}
	})
	return replies, isLast
}

func read(from io.Reader) ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint32(head[1:]))
	_, err := io.ReadFull(from, message)
	return message, err
}

func write(to http.ResponseWriter, messages ...[]byte) {
	for _, message := range messages {
		head := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
		to.Write(append(head, message...))
	}
	to.(http.Flusher).Flush()
}

func process(writer http.ResponseWriter, request *http.Request) {
	isLast := false
	for number := 0; !isLast; number++ {
		message, err := read(request.Body)
		if err != nil {
			return
		}
		var replies [][]byte
		replies, isLast = answers(message, number == 1)
		write(writer, replies...)
	}
}

func serve(writer http.ResponseWriter, request *http.Request) {
	writer.Header().Set("content-type", "application/grpc")
	switch request.URL.Path {
	case "/envoy.service.ext_proc.v3.ExternalProcessor/Process":
		process(writer, request)
	case "/grpc.health.v1.Health/Check":
		write(writer, serving)
	default: // the export of access logs
		if _, err := read(request.Body); err == nil {
			write(writer, nil)
		}
	}
	writer.Header().Set(http.TrailerPrefix+"grpc-status", "0")
}

func main() {
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(serve), Protocols: new(http.Protocols)}
	server.Protocols.SetUnencryptedHTTP2(true)
	log.Fatal(server.Serve(listener))
}
