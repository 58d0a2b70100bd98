package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
)

const (
	// probePeriod and probePatience are those of the readiness probe.
	probePeriod   = 10 * time.Millisecond
	probePatience = 20 * time.Second
	// logBatch is the most that goes to the relay in one request.
	logBatch = 64 << 10
)

// process is a container's process in its pod's network.
type process struct {
	command *exec.Cmd
	now     atomic.Int32
	stopped atomic.Bool
	// gone is closed when it has ended and everything that it said is in the log.
	gone chan struct{}
}

// launch starts the program that the container's image is.
func (p *pod) launch(c *Cluster) (*process, error) {
	container := p.object.Spec.Containers[0]
	program, ports, err := c.image(container)
	if err != nil {
		return nil, err
	}
	command := p.network.Command(program)
	command.Env = append([]string{"PATH=" + os.Getenv("PATH")}, p.environment(container)...)
	command.Dir = p.folder
	// Its own group, so that a key pressed for the tests is not pressed for it.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	command.Stdout, command.Stderr = writer, writer
	kept, err := os.Create(filepath.Join(p.folder, "log"))
	if err == nil {
		err = command.Start()
	}
	_ = writer.Close()
	if err != nil {
		return nil, err
	}
	started := &process{command: command, gone: make(chan struct{})}
	started.now.Store(int32(starting))
	name := p.object.Namespace + "/" + p.object.Name
	go func() {
		defer close(started.gone)
		c.keepLog(p.object, container.Name, said, kept)
		err := command.Wait()
		if !started.stopped.Load() {
			c.Say("cluster: Pod %s ended by itself: %v: see %s", name, err, kept.Name())
			started.now.Store(int32(failed))
			c.wake()
		}
	}()
	go started.probe(c, name, ports)
	return started, nil
}

// image is the program that stands for an image, and the ports that it listens on in /proc/net's words.
func (c *Cluster) image(container core.Container) (string, []listening, error) {
	set := map[string]bool{}
	for _, variable := range container.Env {
		set[variable.Name] = true
	}
	withTLS := func(ports []listening) []listening {
		if set["TLS_SERVER_CERT"] {
			ports = append(ports, listening{"tcp", 8443})
		}
		return ports
	}
	switch {
	case strings.Contains(container.Image, "/coredns:"):
		return c.DNS, []listening{{"udp", 53}}, nil
	case !strings.Contains(container.Image, "/echo-basic:"):
		return "", nil, fmt.Errorf("image %s is not one of the suite's", container.Image)
	case set["UDP_ECHO_SERVER"]:
		return c.Echo, []listening{{"udp", 8080}}, nil
	case set["GRPC_ECHO_SERVER"], set["TCP_ECHO_SERVER"]:
		return c.Echo, withTLS([]listening{{"tcp", 3000}}), nil
	default:
		return c.Echo, withTLS([]listening{{"tcp", 3000}, {"tcp", 3001}}), nil
	}
}

// environment is the container's, with the paths of its mounts led to where the volumes are.
func (p *pod) environment(container core.Container) []string {
	var all []string
	for _, variable := range container.Env {
		value := variable.Value
		if from := variable.ValueFrom; from != nil && from.FieldRef != nil {
			value = map[string]string{
				"metadata.name": p.object.Name, "metadata.namespace": p.object.Namespace, "status.podIP": p.network.IPv4.String(),
			}[from.FieldRef.FieldPath]
		}
		for _, mount := range container.VolumeMounts {
			if rest, ok := strings.CutPrefix(value, mount.MountPath+"/"); ok {
				value = filepath.Join(p.folder, mount.Name, rest)
			}
		}
		all = append(all, variable.Name+"="+value)
	}
	return all
}

// keepLog copies what a process says to a file and to the Pod's log, a whole number of lines at a time, until its end.
func (c *Cluster) keepLog(of *core.Pod, container string, said io.ReadCloser, kept io.WriteCloser) {
	defer said.Close()
	defer kept.Close()
	lines := bufio.NewReaderSize(said, logBatch)
	var batch []byte
	for {
		line, err := lines.ReadSlice('\n')
		batch = append(batch, line...)
		if err != nil && err != bufio.ErrBufferFull || lines.Buffered() == 0 || len(batch) >= logBatch {
			_, _ = kept.Write(batch)
			c.appendLog(of, container, batch)
			batch = batch[:0]
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

func (c *Cluster) appendLog(of *core.Pod, container string, text []byte) {
	if len(text) == 0 {
		return
	}
	ctx, cancel := call(context.Background())
	defer cancel()
	request := c.client.CoreV1().RESTClient().Post().Namespace(of.Namespace).Resource("pods").Name(of.Name).SubResource("log")
	// A Pod that is deleted already has no log. Nobody will ask for it.
	_ = request.Param("container", container).SetHeader("Content-Type", "text/plain").Body(text).Do(ctx).Error()
}

// probe finds out when all ports are listened on, as a kubelet's readiness probe does.
func (r *process) probe(c *Cluster, name string, ports []listening) {
	ticks := time.NewTicker(probePeriod)
	defer ticks.Stop()
	patience := time.After(probePatience)
	for {
		select {
		case <-r.gone:
			return
		case <-patience:
			c.Say("cluster: Pod %s does not listen on %v", name, ports)
			return
		case <-ticks.C:
		}
		if listensOn(r.command.Process.Pid, ports) {
			if r.now.CompareAndSwap(int32(starting), int32(ready)) {
				c.wake()
			}
			return
		}
	}
}

func (r *process) state() state { return state(r.now.Load()) }

// stop ends the process, which has nothing to lose.
func (r *process) stop() {
	r.stopped.Store(true)
	_ = r.command.Process.Kill()
	<-r.gone
}
