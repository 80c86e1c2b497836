import type { MessagePort } from 'node:worker_threads'
import type { ReplyMessage, TaskMessage } from './tasks.ts'
import { tools } from './tools.ts'
import { toFailure, Workbench } from './workbench.ts'

/** Performs the tasks that come through `port`, one after the other. */
export function servePort(port: MessagePort): void {
  const bench = new Workbench(tools())
  port.on('message', ({ id, task, buffers }: TaskMessage) => {
    try {
      const { value, transfer } = bench.perform(task, buffers)
      port.postMessage({ id, value } satisfies ReplyMessage, transfer)
    } catch (error) {
      port.postMessage({ id, failure: toFailure(error) } satisfies ReplyMessage)
    }
  })
}
