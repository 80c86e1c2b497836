import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Figures } from '../registry/registry.ts'

/** The metrics of `/metrics`. Each app has its own, so that two in one process do not add up. */
export interface Metrics {
  /** Labels: method, route (the pattern), status (499 for a client that went away). */
  readonly requests: Counter<'method' | 'route' | 'status'>
  /** Seconds from the request's head to the end of the answer. */
  readonly duration: Histogram<'method' | 'route'>
  /** Bytes of content handed to sockets. */
  readonly sent: Counter
  /** Bytes of upload bodies. */
  readonly received: Counter
  /** Downloads and uploads under way. */
  readonly streams: Gauge<'direction'>
  /** Adds the registry's own figures, read anew each time the metrics are rendered. */
  watch(figures: () => Figures): void
  /** All metrics in the Prometheus text format, and its content type. */
  render(): Promise<{ type: string; text: string }>
}

/** Upper bounds of the buckets of durations, seconds: from an answer of the catalog to the upload of a large model. */
const BUCKETS = [0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800]

export function createMetrics(): Metrics {
  const register = new Registry()
  const registers = [register]
  collectDefaultMetrics({ register })
  return {
    requests: new Counter({
      name: 'wdelta_http_requests_total',
      help: 'Requests answered, by method, route pattern and status',
      labelNames: ['method', 'route', 'status'],
      registers,
    }),
    duration: new Histogram({
      name: 'wdelta_http_request_duration_seconds',
      help: 'Seconds from the head of a request to the end of its answer',
      labelNames: ['method', 'route'],
      buckets: BUCKETS,
      registers,
    }),
    sent: new Counter({
      name: 'wdelta_http_content_sent_bytes_total',
      help: 'Bytes of model content handed to sockets',
      registers,
    }),
    received: new Counter({
      name: 'wdelta_http_upload_received_bytes_total',
      help: 'Bytes of upload bodies received',
      registers,
    }),
    streams: new Gauge({
      name: 'wdelta_http_streams',
      help: 'Downloads and uploads under way',
      labelNames: ['direction'],
      registers,
    }),
    watch: figures => {
      new Gauge({
        name: 'wdelta_bad_blocks',
        help: 'Bad blocks of stored bytes that were met since the start, each as often as it was read',
        registers,
        collect() {
          this.set(figures().badBlocks)
        },
      })
      new Gauge({
        name: 'wdelta_worker_tasks',
        help: 'Tasks that worker threads run, or that wait for one',
        registers,
        collect() {
          this.set(figures().tasks)
        },
      })
      new Gauge({
        name: 'wdelta_cache_chunks',
        help: 'Chunks of blobs since the start: read from the local cache, waited for from the bucket, dropped because they were wrong',
        labelNames: ['outcome'],
        registers,
        collect() {
          const { cache } = figures()
          if (!cache) return
          this.set({ outcome: 'hit' }, cache.hits)
          this.set({ outcome: 'miss' }, cache.misses)
          this.set({ outcome: 'corrupt' }, cache.corrupt)
        },
      })
      new Gauge({
        name: 'wdelta_cache_bytes',
        help: 'Bytes of the local cache',
        registers,
        collect() {
          this.set(figures().cache?.bytes ?? 0)
        },
      })
    },
    render: async () => ({ type: register.contentType, text: await register.metrics() }),
  }
}
