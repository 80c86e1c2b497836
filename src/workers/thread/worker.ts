import { enableCompileCache } from 'node:module'
import { parentPort, workerData } from 'node:worker_threads'

// Before the imports: without it every thread strips and compiles the codec again, which takes longer than many a command.
enableCompileCache()
const { servePort } = await import('./serve.ts')
servePort(parentPort!, workerData)
