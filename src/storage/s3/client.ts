import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { S3Client } from '@aws-sdk/client-s3'
import { NodeHttpHandler } from '@smithy/node-http-handler'

/** Where a bucket is, and how to get into it. */
export interface S3Options {
  /** Undefined: AWS itself. */
  readonly endpoint: string | undefined
  readonly bucket: string
  readonly region: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
  /** Start of all keys: empty, or ending in `/`. */
  readonly prefix: string
  readonly timeouts?: Partial<S3Timeouts> | undefined
}

/** Limits of requests, in milliseconds. */
export interface S3Timeouts {
  /** Until the connection is open. */
  readonly connectMs: number
  /** From the start of one attempt to the head of its answer; ten times as long for a part of an upload. */
  readonly answerMs: number
  /** Between two bytes, in either direction. */
  readonly idleMs: number
  /** For an operation with all its attempts, not counting the transfer of its bytes. */
  readonly totalMs: number
  /** For completing an upload, in addition: some servers copy all of it, and send nothing before they are done. */
  readonly workMs: number
}

export const S3_TIMEOUTS: S3Timeouts = {
  connectMs: 5000,
  answerMs: 30_000,
  idleMs: 20_000,
  totalMs: 90_000,
  workMs: 300_000,
}

/** Most attempts of a request. The SDK chooses the pauses between them. */
const ATTEMPTS = 4
/** Most connections: enough for the reads of several streams and the parts of several uploads. */
const SOCKETS = 128

/** The SDK's client of a bucket, with the time limits that it does not have by itself. */
export function openS3Client(options: S3Options): S3Client {
  const { endpoint, region, accessKeyId, secretAccessKey } = options
  const { connectMs, answerMs, idleMs } = { ...S3_TIMEOUTS, ...options.timeouts }
  const agent = { keepAlive: true, maxSockets: SOCKETS }
  return new S3Client({
    region,
    credentials: { accessKeyId, secretAccessKey },
    maxAttempts: ATTEMPTS,
    // Some proxies do not answer it, and it saves little: a refused part is sent again anyway.
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
      // Servers other than AWS may answer 200 and store the framing of these checksums as part of the object.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
    }),
  })
}
