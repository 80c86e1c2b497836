import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { S3Client } from '@aws-sdk/client-s3'
import { NodeHttpHandler } from '@smithy/node-http-handler'

/** A bucket, and how to get into it. */
export interface S3Options {
  /** Undefined: AWS itself. */
  readonly endpoint: string | undefined
  readonly bucket: string
  readonly region: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
  /** What all keys begin with; empty or ending in `/`. */
  readonly prefix: string
  readonly timeouts?: Partial<S3Timeouts> | undefined
}

/** Milliseconds. */
export interface S3Timeouts {
  /** To connect. */
  readonly connectMs: number
  /** From the beginning of a request to the head of its answer, for one attempt; a part of an upload has ten times as long. */
  readonly answerMs: number
  /** Between two bytes, in either direction. */
  readonly idleMs: number
  /** For an operation with all its attempts, but for the time that its bytes may take. */
  readonly totalMs: number
  /** For the completion of an upload, beside that: some servers copy all of it, and say nothing before they are done. */
  readonly workMs: number
}

export const S3_TIMEOUTS: S3Timeouts = {
  connectMs: 5000,
  answerMs: 30_000,
  idleMs: 20_000,
  totalMs: 90_000,
  workMs: 300_000,
}

/** Attempts of a request, with pauses between them that the SDK chooses. */
const ATTEMPTS = 4
/** Connections: reads of some streams ahead, and parts of some uploads. */
const SOCKETS = 128

/** The SDK's client of a bucket, with limits where it has none by itself. */
export function openS3Client(options: S3Options): S3Client {
  const { endpoint, region, accessKeyId, secretAccessKey } = options
  const { connectMs, answerMs, idleMs } = { ...S3_TIMEOUTS, ...options.timeouts }
  const agent = { keepAlive: true, maxSockets: SOCKETS }
  return new S3Client({
    region,
    credentials: { accessKeyId, secretAccessKey },
    maxAttempts: ATTEMPTS,
    // Some proxies make nothing of it, and a part that is refused is sent again at any rate.
    expectContinueHeader: false,
    requestHandler: new NodeHttpHandler({
      connectionTimeout: connectMs,
      requestTimeout: answerMs,
      throwOnRequestTimeout: true,
      socketTimeout: idleMs,
      httpAgent: new HttpAgent(agent),
      httpsAgent: new HttpsAgent(agent),
    }),
    ...(endpoint !== undefined && {
      endpoint,
      forcePathStyle: true,
      // Other servers may store the framing that these checksums come in as part of the object, with status 200.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
    }),
  })
}
