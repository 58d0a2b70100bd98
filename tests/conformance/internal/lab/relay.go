package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// readyPatience is for the relay's first start, which makes its certificates.
	readyPatience = 60 * time.Second
	// stopPatience is more than the relay's own --drain-timeout.
	stopPatience  = 20 * time.Second
	drainTimeout  = "5"
	apiAddress    = "127.0.0.1:6443"
	tunnelAddress = "127.0.0.1:7443"
)

// Relay is a running underpass-relay.
type Relay struct {
	command *exec.Cmd
	folder  string
	log     *os.File
	// gone is closed when the process has ended, and err is set by then.
	gone chan struct{}
	err  error
}

// StartRelay runs the program on an empty data directory below folder and returns when it says that it is ready.
// What it says goes to relay.log there.
func StartRelay(program, folder string) (*Relay, error) {
	log, err := os.Create(filepath.Join(folder, "relay.log"))
	if err != nil {
		return nil, err
	}
	arguments := []string{
		"--data-dir", filepath.Join(folder, "data"), "--drain-timeout", drainTimeout,
		"--api-listen", apiAddress, "--tunnel-listen", tunnelAddress, "--gateway-pool", gatewayNetwork,
	}
	for _, network := range PodNetworks() {
		arguments = append(arguments, "--allow-backend", network)
	}
	reader, writer := io.Pipe()
	relay := &Relay{command: exec.Command(program, arguments...), folder: folder, log: log, gone: make(chan struct{})}
	relay.command.Stdout = io.MultiWriter(log, writer)
	relay.command.Stderr = log
	relay.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := relay.command.Start(); err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	go watchFor("ready", reader, ready)
	go func() {
		relay.err = relay.command.Wait()
		_ = writer.Close()
		close(relay.gone)
	}()
	select {
	case <-ready:
		return relay, nil
	case <-relay.gone:
		return nil, fmt.Errorf("the relay ended before it was ready: %w: see %s", relay.err, log.Name())
	case <-time.After(readyPatience):
		return nil, errors.Join(fmt.Errorf("the relay was not ready in %s: see %s", readyPatience, log.Name()), relay.Stop())
	}
}

// watchFor closes found when it reads the line, and reads on to the end.
func watchFor(line string, from io.Reader, found chan<- struct{}) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		if found != nil && strings.TrimSpace(lines.Text()) == line {
			close(found)
			found = nil
		}
	}
	_, _ = io.Copy(io.Discard, from)
}

// Config is that of the relay's administrator.
func (r *Relay) Config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(r.folder, "data", "admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	// The suite polls ten times a second; client-go's own limit is five requests.
	config.QPS = -1
	return config, nil
}

// Alive fails when the relay has ended.
func (r *Relay) Alive() error {
	select {
	case <-r.gone:
		return fmt.Errorf("the relay has ended (%w): see %s", errors.Join(errors.New("status"), r.err), r.log.Name())
	default:
		return nil
	}
}

// LogSize is how much the relay has said so far.
func (r *Relay) LogSize() int64 {
	info, err := r.log.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// LogSince is what the relay has said from a size on.
func (r *Relay) LogSince(from int64) []byte {
	text := make([]byte, max(r.LogSize()-from, 0))
	n, _ := r.log.ReadAt(text, from)
	return text[:n]
}

// ProcessorTime is what the relay used, once it has ended.
func (r *Relay) ProcessorTime() time.Duration {
	if ended := r.command.ProcessState; ended != nil {
		return ended.UserTime() + ended.SystemTime()
	}
	return 0
}

// Stop ends the relay as an operator does. It fails when that took too long or the relay did not end well.
func (r *Relay) Stop() error {
	if err := r.Alive(); err != nil {
		return err
	}
	if err := r.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-r.gone:
		return r.err
	case <-time.After(stopPatience):
		_ = r.command.Process.Kill()
		<-r.gone
		return fmt.Errorf("the relay did not stop in %s", stopPatience)
	}
}
