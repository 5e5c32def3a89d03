// A TypeScript worker that is a client, too: it answers each line of its input, until that ends.

import { readdirSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import swc from '@swc/core';
import { Client, Connection } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';

const pathOf = (name) => fileURLToPath(new URL(name, import.meta.url));
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

// The TypeScript of the documentation lies beside this file.
for (const name of readdirSync(pathOf('.')).filter((name) => name.endsWith('.ts'))) {
  const { code } = swc.transformFileSync(pathOf(name), {
    jsc: { parser: { syntax: 'typescript' }, target: 'es2022' },
    module: { type: 'es6' },
  });
  writeFileSync(pathOf(name.replace(/ts$/, 'js')), code);
}
const { currentTenant, tenantActivities } = await import('./tenant-activity.js');
const { actingFor } = await import('./tenant-client.js');

const [address, taskQueue] = process.argv.slice(2);
Runtime.install({ logger: new DefaultLogger('ERROR') });
const connection = await Connection.connect({ address });
const worker = await Worker.create({
  connection: await NativeConnection.connect({ address }),
  taskQueue,
  workflowsPath: pathOf('workflows.js'),
  activities: { seen_by_typescript: async () => currentTenant() },
  interceptors: {
    workflowModules: [pathOf('tenant-workflow.js')],
    activity: [tenantActivities],
  },
});

const calls = {
  start: async (workflows, { type, ...options }) => {
    await workflows.start(type, options);
  },
  signal: async (workflows, { workflowId, signal, args }) => {
    await workflows.getHandle(workflowId).signal(signal, ...args);
  },
};

async function answer({ call, tenant, ...options }) {
  const interceptors = { workflow: tenant ? [actingFor(tenant)] : [] };
  try {
    await calls[call](new Client({ connection, interceptors }).workflow, options);
    return {};
  } catch (error) {
    return { error: String(error.stack) };
  }
}

const running = worker.run();
say({});
for await (const line of createInterface({ input: process.stdin })) {
  say(await answer(JSON.parse(line)));
}
worker.shutdown();
await running;
await connection.close();
