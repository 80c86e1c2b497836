import type { MessagePort } from 'node:worker_threads'
import { threadKernels } from '../kernels.ts'
import type { ReplyMessage, TaskBuffer, TaskMessage } from '../tasks.ts'
import { TaskRunner, toFailure } from './task-runner.ts'

/** Carries out the tasks that come through `port`, one after the other. A task stops between two frames once `cancelled` is not 0. */
export function servePort(port: MessagePort, cancelled: Int32Array<SharedArrayBuffer>): void {
  const runner = new TaskRunner(threadKernels(), () => Atomics.load(cancelled, 0) !== 0)
  port.on('message', ({ task, buffers }: TaskMessage) => {
    try {
      const { value, transfer } = runner.perform(task, buffers)
      port.postMessage({ value } satisfies ReplyMessage, transfer)
    } catch (error) {
      port.postMessage({ failure: toFailure(error) } satisfies ReplyMessage)
    } finally {
      free(buffers)
    }
  })
}

/** Frees the memory of the buffers of a task, in which no result is. V8 would collect it only some tens of MiB later. */
function free(buffers: readonly TaskBuffer[]): void {
  for (const each of buffers) {
    // Several buffers may share memory.
    if (!(each instanceof Uint8Array) || !(each.buffer instanceof ArrayBuffer)) continue
    if (!each.buffer.detached) each.buffer.transfer(0)
  }
}
