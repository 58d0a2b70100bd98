package cluster

import (
	"fmt"
	"os"
	"strings"
)

// listening is a port that a server has.
type listening struct {
	transport string
	port      uint16
}

// What /proc/PID/net says of a socket that takes what comes: TCP in LISTEN, UDP that is connected to nobody.
var takes = map[string]string{"tcp": "0A", "udp": "07"}

// listensOn tells whether all ports are listened on in the network namespace of a process.
func listensOn(pid int, ports []listening) bool {
	for _, wanted := range ports {
		found := false
		for _, family := range []string{"", "6"} {
			table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s%s", pid, wanted.transport, family))
			found = found || err == nil && hasListener(string(table), wanted)
		}
		if !found {
			return false
		}
	}
	return true
}

// hasListener looks a port up in a table of /proc/net: number, local address and port, peer, state, each in hexadecimal.
func hasListener(table string, wanted listening) bool {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		port := fmt.Sprintf(":%04X", wanted.port)
		if len(fields) > 3 && strings.HasSuffix(fields[1], port) && fields[3] == takes[wanted.transport] {
			return true
		}
	}
	return false
}
