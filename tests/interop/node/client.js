// A client of the mesh in Node: `node client.js xds:///echo`, with GRPC_XDS_BOOTSTRAP set.
//
// Each line of its input is a call, a method and `name value` pairs of metadata; each line of its
// output is the answer to one, as JSON: the status code and who answered.
'use strict';

const readline = require('node:readline');
const grpc = require('@grpc/grpc-js');
require('@grpc/grpc-js-xds').register(); // the xds:/// scheme

const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const same = (bytes) => bytes;

function answer(method, pairs) {
  const metadata = new grpc.Metadata();
  for (let i = 0; i < pairs.length; i += 2) metadata.add(pairs[i], pairs[i + 1]);
  const options = { deadline: Date.now() + 10_000 };
  return new Promise((resolve) => {
    client
      .makeUnaryRequest(method, same, same, Buffer.alloc(0), metadata, options, () => {})
      .on('status', ({ code, metadata: trailer }) => {
        resolve({ code, instance: trailer.get('mesh-instance').join('') });
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
