import { enableCompileCache } from 'node:module'
import { parentPort, workerData } from 'node:worker_threads'

// Before the imports: without the cache every thread strips and compiles the codec anew, which takes longer than many commands.
enableCompileCache()
const { servePort } = await import('./serve.ts')
servePort(parentPort!, workerData)
