// A client of the mesh in Node: `node client.js [--secure] xds:///echo`, with GRPC_XDS_BOOTSTRAP set.
//
// Each line of its input is a call, a method and `name value` pairs of metadata; each line of its
// output is the answer to one, as JSON: the status code, who answered, and what an error says.
'use strict';

const readline = require('node:readline');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const { XdsChannelCredentials, register } = require('@grpc/grpc-js-xds');
register(); // the xds:/// scheme

// xDS says whom to believe, and the bootstrap where our certificate is. Where xDS says nothing
// nobody is believed: it must not decide that a call is in plain text.
function mutualTLS() {
  const refuse = () => new Error('xDS names nobody to believe');
  const nobody = grpc.credentials.createSsl(null, null, null, { checkServerIdentity: refuse });
  return new XdsChannelCredentials(nobody);
}

const { values, positionals } = parseArgs({
  options: { secure: { type: 'boolean' } },
  allowPositionals: true,
});
const credentials = values.secure ? mutualTLS() : grpc.credentials.createInsecure();
const client = new grpc.Client(positionals[0], credentials);
const same = (bytes) => bytes;

function answer(method, pairs) {
  const metadata = new grpc.Metadata();
  for (let i = 0; i < pairs.length; i += 2) metadata.add(pairs[i], pairs[i + 1]);
  const options = { deadline: Date.now() + 10_000 };
  return new Promise((resolve) => {
    client
      .makeUnaryRequest(method, same, same, Buffer.alloc(0), metadata, options, () => {})
      .on('status', ({ code, metadata: trailer, details }) => {
        resolve({ code, instance: trailer.get('mesh-instance').join(''), details });
      });
  });
}

async function main() {
  for await (const call of readline.createInterface({ input: process.stdin })) {
    const [method, ...pairs] = call.split(' ');
    console.log(JSON.stringify(await answer(method, pairs)));
  }
  client.close();
}

main();
