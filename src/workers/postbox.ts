import { readFileSync } from 'node:fs'
import type { MessagePort } from 'node:worker_threads'
import { openKernels } from '../codec/index.ts'
import type { ReplyMessage, TaskMessage } from './tasks.ts'
import { toFailure, Workbench } from './workbench.ts'

/** Performs the tasks that come through `port`, one after the other. */
export function servePort(port: MessagePort): void {
  const wasm = readFileSync(new URL('../codec/kernels/kernels.wasm', import.meta.url))
  const bench = new Workbench(openKernels(wasm))
  port.on('message', ({ id, task, buffers }: TaskMessage) => {
    try {
      const { value, transfer } = bench.perform(task, buffers)
      port.postMessage({ id, value } satisfies ReplyMessage, transfer)
    } catch (error) {
      port.postMessage({ id, failure: toFailure(error) } satisfies ReplyMessage)
    }
  })
}
