import { readFileSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'
import { openKernels } from '../codec/index.ts'
import type { ReplyMessage, TaskMessage } from './tasks.ts'
import { toFailure, Workbench } from './workbench.ts'

const wasm = readFileSync(new URL('../codec/kernels/kernels.wasm', import.meta.url))
const bench = new Workbench(openKernels(wasm))

parentPort!.on('message', ({ id, task, buffers }: TaskMessage) => {
  try {
    const { value, transfer } = bench.perform(task, buffers)
    parentPort!.postMessage({ id, value } satisfies ReplyMessage, transfer)
  } catch (error) {
    parentPort!.postMessage({ id, failure: toFailure(error) } satisfies ReplyMessage)
  }
})
