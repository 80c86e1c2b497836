import { type Logger, pino } from 'pino'
import type { Config } from './config.ts'

/** Least length of a secret that is searched for: a shorter one would match ordinary words. */
const MIN_SECRET_LENGTH = 8
const HIDDEN = '[redacted]'

/** Headers with credentials, as members of an object and in a list of alternating names and values. */
const HEADER =
  /("(?:proxy-)?(?:authorization|cookie2?)|"set-cookie2?|"x-[\w-]*(?:token|key))("\s*[:,]\s*)"(?:[^"\\]|\\.)*"/gi
/** Credentials in the form of a header's value, anywhere. */
const SCHEME = /\b(bearer|basic)( |%20|\+)+[^\s"\\,<>]+/gi
/** Tokens of this registry and of the Hugging Face Hub. */
const TOKEN = /\b(?:wdr|hf)_\w{16,}/g
/** A token in the query of a URL, where nothing reads it but clients may put it. */
const QUERY = /([?&](?:[\w-]*token|authorization|api[_-]?key|password|secret)=)[^&#\s"\\]*/gi
/** A name and password in a URL. */
const USER_INFO = /(:\/\/)[^/?#@\s"\\]+@/g

/**
 * A line of the log without credentials. Searches the whole line, not certain members: the framework, its plugins and errors of other libraries
 * bring requests with them in places that nobody can list. `secrets` are those without a recognisable form.
 */
export function withoutSecrets(line: string, secrets: readonly string[]): string {
  let shown = line
    .replace(HEADER, `$1$2"${HIDDEN}"`)
    .replace(SCHEME, `$1 ${HIDDEN}`)
    .replace(TOKEN, HIDDEN)
    .replace(QUERY, `$1${HIDDEN}`)
    .replace(USER_INFO, `$1${HIDDEN}@`)
  for (const secret of secrets) shown = shown.replaceAll(secret, HIDDEN)
  return shown
}

/** The log of the process: JSON lines on a file descriptor, at every level without tokens and secrets of the configuration. */
export function openLog(config: Config, descriptor: number): Logger {
  const { logLevel, adminToken, storage } = config
  const keys = storage.kind === 's3' ? [storage.secretAccessKey] : []
  const secrets = [adminToken, ...keys]
    .filter(secret => secret !== undefined && secret.length >= MIN_SECRET_LENGTH)
    // Escaped as in JSON.
    .map(secret => JSON.stringify(secret).slice(1, -1))
  const options = {
    level: logLevel,
    // The bytes of a request would be logged as numbers, which no pattern matches.
    redact: { paths: ['err.rawPacket'], remove: true },
    hooks: { streamWrite: (line: string) => withoutSecrets(line, secrets) },
  }
  return pino(options, pino.destination(descriptor))
}
