// A worker from the contract alone: node worker.js PROTO HOST:PORT JOB NAME. Fits y = A x by least squares on the rows
// i with i % 2 == 1 of a problem both workers can compute, and prints a JSON line with what it saw.
const crypto = require('crypto');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const [proto, address, job, worker] = process.argv.slice(2);
const root = loader.loadSync(proto, { keepCase: true, longs: Number, enums: String, defaults: true });
const { JobService, WorkerService } = grpc.loadPackageDefinition(root).optimd.v1;
const jobs = new JobService(address, grpc.credentials.createInsecure());
const workers = new WorkerService(address, grpc.credentials.createInsecure());
const call = (client, method, request) => new Promise((resolve, reject) =>
  client[method](request, (error, answer) => error ? reject(error) : resolve(answer)));
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0x82f63b78 : byte >>> 1;
  return byte;
});
const crc32c = (data) => (data.reduce((crc, byte) => table[(crc ^ byte) & 255] ^ (crc >>> 8), -1) ^ -1) >>> 0;
const digest = (name, shape) => {
  const head = Buffer.alloc(4), tail = Buffer.alloc(5 + 8 * shape.length);
  head.writeUInt32LE(Buffer.byteLength(name));
  tail.writeUInt8(1);
  tail.writeUInt32LE(shape.length, 1);
  shape.forEach((size, i) => tail.writeBigInt64LE(BigInt(size), 5 + 8 * i));
  return crypto.createHash('sha256').update(head).update(name).update(tail).digest();
};
const push = (header, data) => new Promise((resolve, reject) => {
  const stream = workers.Push((error, answer) => error ? reject(error) : resolve(answer));
  stream.write({ header });
  stream.write({ offset_bytes: 0, crc32c: crc32c(data), data });
  stream.end();
});
const pull = () => new Promise((resolve, reject) => {
  const answers = [];
  workers.Pull({ job }).on('data', (answer) => answers.push(answer)).on('error', reject).on('end', () => {
    const bytes = new Uint8Array(Buffer.concat(answers.map((answer) => answer.data)));
    resolve({ version: answers[0].parameters.version, x: new Float32Array(bytes.buffer) });
  });
});
async function main() {
  while ((await call(jobs, 'ListJobs', {})).jobs.every((one) => one.job !== job || one.state !== 'JOB_STATE_READY'));
  const layout_digest = digest('x', [4]);
  const { epoch } = await call(workers, 'Join', { job, worker, layout_digest });
  let { version, x } = await pull();
  for (let seq = 1, applied = 0; ; seq++) {
    const gradient = new Float32Array(4);
    for (let i = 1; i < 32; i += 2) {
      const row = [0, 1, 2, 3].map((j) => Math.sin((i + 1) * (j + 1)));
      const residual = row.reduce((sum, a, j) => sum + a * (x[j] - (j + 1)), 0);
      row.forEach((a, j) => { gradient[j] += (residual * a) / 16; });
    }
    const data = Buffer.from(gradient.buffer);
    const me = { job, worker, epoch, seq };
    let answer = await push({ ...me, base_version: version, weight: 16, payload_bytes: 16, layout_digest }, data);
    while (answer.state === 'PUSH_STATE_WAITING') answer = await call(workers, 'AwaitOutcome', me);
    applied += answer.outcome.status === 'OUTCOME_STATUS_APPLIED';
    ({ version, x } = await pull());
    if (answer.finished) return console.log(JSON.stringify({ steps: seq, applied, step: version.step, x: [...x] }));
  }
}
main().then(() => process.exit(0), (error) => { console.error(error.message); process.exit(1); });
