// A worker from the contract alone: node worker.js PROTO HOST:PORT JOB NAME. It is the first of two that fit a plane to
// points by least squares (see plane.py) and prints what it came to as JSON.
const crypto = require('crypto');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const [proto, address, job, worker] = process.argv.slice(2);
const root = loader.loadSync(proto, { keepCase: true, longs: Number, enums: String, defaults: true });
const { WorkerService } = grpc.loadPackageDefinition(root).optimd.v1;
const workers = new WorkerService(address, grpc.credentials.createInsecure());
const call = (client, method, request) => new Promise((resolve, reject) =>
  client[method](request, (error, answer) => error ? reject(error) : resolve(answer)));
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0x82f63b78 : byte >>> 1;
  return byte;
});
const crc32c = (data) => (data.reduce((crc, byte) => table[(crc ^ byte) & 255] ^ (crc >>> 8), -1) ^ -1) >>> 0;
const bytes = (...numbers) => Buffer.from(Uint32Array.from(numbers).buffer);
const layout_digest = crypto.createHash('sha256')
  .update(bytes(6)).update('weight\x01').update(bytes(2, 1, 0, 5, 0)) // [1, 5]: each dimension has 8 bytes
  .update(bytes(4)).update('bias\x01').update(bytes(0)).digest();
const push = (header, data) => new Promise((resolve, reject) => {
  const stream = workers.Push((error, answer) => error ? reject(error) : resolve(answer));
  stream.write({ header });
  stream.write({ offset_bytes: 0, crc32c: crc32c(data), data });
  stream.end();
});
const pull = () => new Promise((resolve, reject) => {
  const answers = [];
  workers.Pull({ job }).on('data', (answer) => answers.push(answer)).on('error', reject).on('end', () => {
    const data = new Uint8Array(Buffer.concat(answers.map((answer) => answer.data)));
    resolve({ version: answers[0].parameters.version, w: new Float32Array(data.buffer) });
  });
});
const compute = (w, step) => {
  const sums = new Float64Array(6), truth = [1, -2, 3, -4, 5];
  let loss = 0, count = 0;
  for (let i = 0; i < 64; i += step, count++) {
    const x = truth.map((_, j) => ((i * (j + 3) + j * j) % 17 - 8) / 8);
    let residual = w[5] - x.reduce((y, a, j) => y + a * truth[j], 0.5);
    x.forEach((a, j) => { residual += a * w[j]; });
    [...x, 1].forEach((a, j) => { sums[j] += residual * a; });
    loss += residual * residual;
  }
  return { gradient: Float32Array.from(sums, (sum) => sum / count), loss: loss / count / 2, weight: count };
};
async function main() {
  const { epoch } = await call(workers, 'Join', { job, worker, layout_digest });
  for (let seq = 1, applied = 0, { version, w } = await pull(); ; seq++) {
    const { gradient, loss, weight } = compute(w, 2), me = { job, worker, epoch, seq };
    const header = { ...me, base_version: version, weight, loss, payload_bytes: 24, layout_digest };
    let answer = await push(header, Buffer.from(gradient.buffer));
    while (answer.state === 'PUSH_STATE_WAITING') answer = await call(workers, 'AwaitOutcome', me);
    applied += answer.outcome.status === 'OUTCOME_STATUS_APPLIED';
    ({ version, w } = await pull());
    const report = { applied, step: version.step, loss: compute(w, 1).loss, parameters: [...w] };
    if (answer.finished) return console.log(JSON.stringify(report));
  }
}
main().then(() => process.exit(0), (error) => { console.error(error.message); process.exit(1); });
