// A worker in Go, from optimd.proto alone: it fits a plane to points by least squares, beside other workers.
//
//	worker [-job plane] [-worker go] [-rank 0] [-workers 1] [-steps 200] [HOST:PORT]
//
// The address is else that of OPTIMD_SERVER, else 127.0.0.1:50051. Worth taking over: create(), join() and deliver(),
// which gets a push to its one outcome through lost answers, servers that start again and leases that end.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "optimd/v1"
)

const (
	points, features = 64, 5
	chunkBytes       = 1 << 20
	patience         = 60 * time.Second // Without an answer for so long the worker gives up.
	createTimeout    = 40 * time.Second // Until the server says how long it holds a call that waits.
	margin           = 10 * time.Second // Above that.
)

var layout = &pb.Layout{Tensors: []*pb.TensorSpec{
	{Name: "weight", Shape: []int64{1, features}, Kind: pb.TensorKind_TENSOR_KIND_TRAINABLE},
	{Name: "bias", Kind: pb.TensorKind_TENSOR_KIND_TRAINABLE},
}}

// specification: AdamW under a cosine, with weight decay on the matrix alone.
func specification(workers int, steps int64) *pb.JobSpec {
	cosine := &pb.Schedule{Kind: &pb.Schedule_Cosine{Cosine: &pb.Cosine{LrMax: 0.3, LrMin: 0.001, Steps: steps}}}
	rule := &pb.AdamW{Lr: cosine, WeightDecay: proto.Float64(0.001)}
	return &pb.JobSpec{
		Layout:      layout,
		Optimizer:   &pb.Optimizer{Rule: &pb.Optimizer_Adamw{Adamw: rule}},
		Consistency: &pb.Consistency{Model: &pb.Consistency_Sync{Sync: &pb.Sync{Workers: int32(workers)}}},
		Groups: []*pb.Group{
			{Pattern: "*", NdimMax: proto.Int32(1), HyperParameters: map[string]float64{"weight_decay": 0}},
		},
		StepsMax: proto.Int64(steps),
	}
}

// point: numbers that float64 holds exactly, so that every language computes the same.
func point(i int) (x [features]float64, y float64) {
	truth := [features]float64{1, -2, 3, -4, 5}
	y = 0.5
	for j := range x {
		x[j] = float64((i*(j+3)+j*j)%17-8) / 8
		y += x[j] * truth[j]
	}
	return x, y
}

// gradient of half the mean square over every workers-th point from rank on. The conversions keep the compiler from
// fusing a product and a sum, which would round differently.
func gradient(p []float32, rank, workers int) (g []float32, loss, count float64) {
	var sum [features + 1]float64
	for i := rank; i < points; i += workers {
		x, y := point(i)
		residual := float64(p[features]) - y
		for j := range x {
			residual += float64(float64(p[j]) * x[j])
		}
		for j := range x {
			sum[j] += float64(residual * x[j])
		}
		sum[features] += residual
		loss += float64(residual * residual)
		count++
	}
	for _, total := range sum {
		g = append(g, float32(total/count))
	}
	return g, loss / count / 2, count
}

func crc32c(data []byte) *uint32 {
	return proto.Uint32(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}

func littleEndian(values ...interface{}) []byte {
	var buffer bytes.Buffer
	for _, value := range values {
		binary.Write(&buffer, binary.LittleEndian, value)
	}
	return buffer.Bytes()
}

// layoutDigest: see Layout in the contract, which has a value to check it with.
func layoutDigest() []byte {
	var all []byte
	for _, tensor := range layout.Tensors {
		all = append(all, littleEndian(uint32(len(tensor.Name)), []byte(tensor.Name))...)
		all = append(all, littleEndian(uint8(tensor.Kind), uint32(len(tensor.Shape)), tensor.Shape)...)
	}
	sum := sha256.Sum256(all)
	return sum[:]
}

// reasonOf: "" where gRPC, a proxy or the deadline made the error. delay: what the server asks for.
func reasonOf(err error) (reason string, delay time.Duration) {
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.RetryInfo:
			delay = detail.RetryDelay.AsDuration()
		}
	}
	return reason, delay
}

// retriable is the contract's retry rule.
func retriable(err error) bool {
	reason, delay := reasonOf(err)
	switch status.Code(err) {
	case codes.Unavailable, codes.DataLoss, codes.Internal:
		return true
	case codes.ResourceExhausted:
		return delay > 0
	case codes.Unimplemented:
		return false
	}
	return reason == "" || reason == "PUSH_SUPERSEDED"
}

// noMember: whether the epoch is over, or the server has never heard of it.
func noMember(err error) bool {
	reason, _ := reasonOf(err)
	return reason == "LEASE_EXPIRED" || reason == "NOT_JOINED"
}

// retries waits between two tries: longer each time, by chance, and as long as the server asks for.
type retries struct {
	since time.Time
	delay time.Duration
}

func (r *retries) wait(err error) error {
	if r.since.IsZero() {
		r.since, r.delay = time.Now(), 50*time.Millisecond
	}
	if time.Since(r.since) > patience {
		return err
	}
	_, asked := reasonOf(err)
	time.Sleep(asked + time.Duration(float64(r.delay)*(0.5+rand.Float64())))
	if r.delay < 2*time.Second {
		r.delay *= 2
	}
	return nil
}

// again repeats a call that may be repeated until it is answered or refused for good.
func again(timeout time.Duration, call func(context.Context) error) error {
	for tries := (&retries{}); ; {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		err := call(ctx)
		cancel()
		if err == nil || !retriable(err) {
			return err
		}
		if gaveUp := tries.wait(err); gaveUp != nil {
			return gaveUp
		}
	}
}

type worker struct {
	jobs    pb.JobServiceClient
	calls   pb.WorkerServiceClient
	job     string
	name    string
	digest  []byte
	timeout time.Duration // Of a call that the server may hold.
	epoch   int64
	seq     int64 // Of the next push.
	ended   int64 // The last epoch whose heartbeat was refused; atomic.
	stop    context.CancelFunc
}

// create makes the job or finds it: one caller uploads, the others wait until it has.
func (w *worker) create(spec *pb.JobSpec, initial []byte) error {
	request := &pb.CreateJobRequest{Job: w.job, Spec: spec, Worker: w.name}
	for tries := (&retries{}); ; request.Again = true {
		var answer *pb.CreateJobResponse
		err := again(w.timeout, func(ctx context.Context) (err error) {
			answer, err = w.jobs.CreateJob(ctx, request)
			return err
		})
		if err != nil {
			return err
		}
		w.timeout = time.Duration(answer.Limits.WaitMsMax)*time.Millisecond + margin
		switch answer.Disposition {
		case pb.CreateDisposition_CREATE_DISPOSITION_READY:
			return nil
		case pb.CreateDisposition_CREATE_DISPOSITION_WAIT:
			continue
		}
		err = w.upload(answer.UploadToken, initial)
		if err == nil {
			return nil
		}
		if reason, _ := reasonOf(err); reason != "NOT_UPLOADER" && !retriable(err) {
			return err
		}
		if err = tries.wait(err); err != nil {
			return err
		}
	}
}

func (w *worker) upload(token int64, data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.timeout)
	defer cancel()
	stream, err := w.jobs.UploadParameters(ctx)
	if err != nil {
		return err
	}
	header := &pb.UploadHeader{Job: w.job, UploadToken: token, PayloadBytes: int64(len(data)), LayoutDigest: w.digest}
	for offset := 0; offset < len(data) && err == nil; offset += chunkBytes {
		chunk := chunkAt(data, offset)
		request := &pb.UploadParametersRequest{OffsetBytes: int64(offset), Crc32C: crc32c(chunk), Data: chunk, Header: header}
		err, header = stream.Send(request), nil
	}
	_, err = stream.CloseAndRecv() // Also where Send failed: the answer says why.
	return err
}

func (w *worker) push(header *pb.PushHeader, data []byte) (*pb.PushResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.timeout)
	defer cancel()
	stream, err := w.calls.Push(ctx)
	if err != nil {
		return nil, err
	}
	for offset := 0; offset < len(data) && err == nil; offset += chunkBytes {
		chunk := chunkAt(data, offset)
		err = stream.Send(&pb.PushRequest{OffsetBytes: int64(offset), Crc32C: crc32c(chunk), Data: chunk, Header: header})
		header = nil
	}
	return stream.CloseAndRecv()
}

func chunkAt(data []byte, offset int) []byte {
	if offset+chunkBytes < len(data) {
		return data[offset : offset+chunkBytes]
	}
	return data[offset:]
}

// join takes a fresh epoch, whose pushes are numbered from 1, and keeps its lease.
func (w *worker) join() error {
	w.stop()
	return again(w.timeout, func(ctx context.Context) error {
		answer, err := w.calls.Join(ctx, &pb.JoinRequest{Job: w.job, Worker: w.name, LayoutDigest: w.digest})
		if err == nil {
			fmt.Fprintf(os.Stderr, "joined %s as %s, epoch %d\n", w.job, w.name, answer.Epoch)
			w.epoch, w.seq = answer.Epoch, 1
			ctx, w.stop = context.WithCancel(context.Background())
			go w.heartbeats(ctx, answer.Epoch, time.Duration(answer.LeaseMs)*time.Millisecond/3)
		}
		return err
	})
}

// heartbeats: the next one makes up for one that is lost; whatever else is refused, the next push is told too.
func (w *worker) heartbeats(ctx context.Context, epoch int64, every time.Duration) {
	for ticks := time.NewTicker(every); ; {
		select {
		case <-ctx.Done():
			ticks.Stop()
			return
		case <-ticks.C:
			beat, cancel := context.WithTimeout(ctx, every)
			_, err := w.calls.Heartbeat(beat, &pb.HeartbeatRequest{Job: w.job, Worker: w.name, Epoch: epoch})
			cancel()
			if err != nil && noMember(err) {
				atomic.StoreInt64(&w.ended, epoch)
			}
		}
	}
}

func (w *worker) pull() (version *pb.Version, parameters []float32, err error) {
	err = again(w.timeout, func(ctx context.Context) error {
		stream, err := w.calls.Pull(ctx, &pb.PullRequest{Job: w.job})
		var data []byte
		for err == nil {
			var answer *pb.PullResponse
			if answer, err = stream.Recv(); err != nil {
				break
			}
			if answer.Parameters != nil {
				version = answer.Parameters.Version
			}
			if answer.GetCrc32C() != *crc32c(answer.Data) {
				return status.Error(codes.DataLoss, "a chunk of parameters differs from its checksum")
			}
			data = append(data, answer.Data...)
		}
		if err != io.EOF {
			return err
		}
		parameters = make([]float32, len(data)/4)
		return binary.Read(bytes.NewReader(data), binary.LittleEndian, parameters)
	})
	return version, parameters, err
}

// deliver sends a gradient and returns its outcome, and whether the job is finished. It sends again only what surely
// was not taken: under the same seq, or, once its epoch is over, under a new one.
func (w *worker) deliver(header *pb.PushHeader, data []byte) (*pb.Outcome, bool, error) {
	tries := &retries{}
	for header.Attempt = 1; ; header.Attempt++ {
		header.Epoch, header.Seq = w.epoch, w.seq
		answer, failure := w.push(header, data)
		if failure == nil && answer.State == pb.PushState_PUSH_STATE_DONE {
			w.seq++
			return answer.Outcome, answer.Finished, nil
		}
		if failure != nil && !retriable(failure) && !noMember(failure) {
			return nil, false, failure
		}
		known, err := w.await(header)
		if err == nil && known != nil {
			if w.epoch == header.Epoch {
				w.seq++
			}
			return known.Outcome, known.Finished, nil
		}
		if err == nil && failure != nil {
			err = tries.wait(failure)
		}
		if err == nil && noMember(failure) && w.epoch == header.Epoch {
			err = w.join()
		}
		if err != nil {
			return nil, false, err
		}
	}
}

// await returns what became of a push; nil if it was never taken. Its round may need one more live worker to close: if
// the lease ends meanwhile the worker joins again, and goes on asking under the old epoch.
func (w *worker) await(header *pb.PushHeader) (answer *pb.AwaitOutcomeResponse, err error) {
	request := &pb.AwaitOutcomeRequest{Job: w.job, Worker: w.name, Epoch: header.Epoch, Seq: header.Seq}
	for err == nil {
		err = again(w.timeout, func(ctx context.Context) (err error) {
			answer, err = w.calls.AwaitOutcome(ctx, request)
			return err
		})
		switch {
		case err != nil && noMember(err): // The server remembers nothing of the epoch: it took nothing that lasts.
			return nil, nil
		case err != nil || answer.State == pb.PushState_PUSH_STATE_DONE:
			return answer, err
		case answer.State == pb.PushState_PUSH_STATE_UNKNOWN:
			return nil, nil
		case w.epoch == header.Epoch && atomic.LoadInt64(&w.ended) == header.Epoch:
			err = w.join()
		}
	}
	return nil, err
}

// leave does not insist: the lease ends by itself.
func (w *worker) leave(failed bool) {
	w.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	w.calls.Leave(ctx, &pb.LeaveRequest{Job: w.job, Worker: w.name, Epoch: w.epoch, Failed: failed})
}

// train pulls, computes and pushes until the job is finished, and prints what came of it.
func (w *worker) train(rank, workers int) error {
	applied := 0
	for finished := false; !finished; {
		version, parameters, err := w.pull()
		if err != nil {
			return err
		}
		g, loss, count := gradient(parameters, rank, workers)
		data := littleEndian(g)
		outcome, isLast, err := w.deliver(&pb.PushHeader{Job: w.job, Worker: w.name, BaseVersion: version, Weight: count,
			Loss: &loss, PayloadBytes: int64(len(data)), LayoutDigest: w.digest}, data)
		if err != nil {
			return err
		}
		if outcome.Status == pb.OutcomeStatus_OUTCOME_STATUS_APPLIED {
			applied++
		} else {
			fmt.Fprintln(os.Stderr, outcome.Status, outcome.Reason, outcome.Detail)
		}
		finished = isLast
	}
	version, parameters, err := w.pull()
	if err != nil {
		return err
	}
	_, loss, _ := gradient(parameters, 0, 1)
	return json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"applied": applied, "step": version.Step, "loss": loss, "parameters": parameters})
}

func run(address string, w *worker, rank, workers int, steps int64) error {
	// A server that starts again is found within a second; by default it may take two minutes.
	soon := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	link, err := grpc.Dial(address, grpc.WithInsecure(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: 5 * time.Second}))
	if err != nil {
		return err
	}
	defer link.Close()
	w.jobs, w.calls = pb.NewJobServiceClient(link), pb.NewWorkerServiceClient(link)
	if err = w.create(specification(workers, steps), littleEndian(make([]float32, features+1))); err == nil {
		if err = w.join(); err == nil {
			err = w.train(rank, workers)
			w.leave(err != nil)
		}
	}
	return err
}

func main() {
	w := &worker{digest: layoutDigest(), timeout: createTimeout, stop: func() {}}
	flag.StringVar(&w.job, "job", "plane", "name of the job")
	flag.StringVar(&w.name, "worker", "go", "name of this worker")
	rank := flag.Int("rank", 0, "its first point; it takes every workers-th from there on")
	workers := flag.Int("workers", 1, "workers of the job")
	steps := flag.Int64("steps", 200, "updates in all")
	flag.Parse()
	address := "127.0.0.1:50051"
	for _, given := range []string{os.Getenv("OPTIMD_SERVER"), flag.Arg(0)} {
		if given != "" {
			address = given
		}
	}
	rand.Seed(time.Now().UnixNano())
	if err := run(address, w, *rank, *workers, *steps); err != nil {
		reason, _ := reasonOf(err)
		fmt.Fprintln(os.Stderr, reason, err)
		os.Exit(1)
	}
}
