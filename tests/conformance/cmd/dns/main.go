// Command dns is the DNS server of the suite's manifests, where a cluster runs CoreDNS: it answers every question for an
// address, at port 53 of every address that it has. The suite asks only whether an answer comes.
package main

import (
	"fmt"
	"net"
	"os"

	"github.com/miekg/dns"
)

func main() {
	server := &dns.Server{Addr: ":53", Net: "udp", Handler: dns.HandlerFunc(answer)}
	if err := server.ListenAndServe(); err != nil {
		fmt.Fprintln(os.Stderr, "dns:", err)
		os.Exit(1)
	}
}

func answer(writer dns.ResponseWriter, question *dns.Msg) {
	reply := new(dns.Msg).SetReply(question)
	for _, asked := range question.Question {
		fmt.Printf("%s asks for %s\n", writer.RemoteAddr(), asked.Name)
		if asked.Qtype == dns.TypeA {
			header := dns.RR_Header{Name: asked.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 53)})
		}
	}
	if err := writer.WriteMsg(reply); err != nil {
		fmt.Fprintln(os.Stderr, "dns:", err)
	}
}
