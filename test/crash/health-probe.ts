/** Asks `/healthz` of the server that `workerData` names, again and again on one connection; answers any message with the times it took, and ends. */
import { Agent, get } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'

/** Between two looks, milliseconds. */
const POLL_MS = 20
const agent = new Agent({ keepAlive: true, maxSockets: 1 })
const times: number[] = []
let on = true

parentPort!.once('message', () => {
  on = false
})
while (on) {
  const began = performance.now()
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  get(`${workerData.url}/healthz`, { agent }, answer => {
    answer.resume().on('end', resolve)
  }).on('error', reject)
  await promise
  times.push(performance.now() - began)
  await sleep(POLL_MS)
}
agent.destroy()
parentPort!.postMessage(times)
