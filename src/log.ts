import { type Logger, pino } from 'pino'
import type { Config } from './config.ts'

/** Characters below which a secret of the environment is not looked for: it would be found in words that are none. */
const MIN_SECRET_LENGTH = 8
const HIDDEN = '[redacted]'

/** The headers that carry credentials, as members of an object and as neighbours in a list of names and values. */
const HEADER =
  /("(?:proxy-)?(?:authorization|cookie2?)|"set-cookie2?|"x-[\w-]*(?:token|key))("\s*[:,]\s*)"(?:[^"\\]|\\.)*"/gi
/** Credentials as they stand in a header, wherever that is quoted. */
const SCHEME = /\b(bearer|basic)( |%20|\+)+[^\s"\\,<>]+/gi
/** Tokens of this registry, and those that look like them. */
const TOKEN = /\b(?:wdr|hf)_\w{16,}/g
/** A token in the query of an address: whoever tries that has given it away, but not to those who read the log. */
const QUERY = /([?&](?:[\w-]*token|authorization|api[_-]?key|password|secret)=)[^&#\s"\\]*/gi
/** A name and password in an address. */
const USER_INFO = /(:\/\/)[^/?#@\s"\\]+@/g

/**
 * A line of the log without credentials. It is the whole line that is looked at, and not some members of what is logged: a framework, its plugins
 * and errors of other libraries bring requests with them, in places that nobody lists. `secrets` are those that have no form to know them by.
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

/** The log of the process: JSON lines on a file descriptor, at any level without a token or another secret of the configuration. */
export function openLog(config: Config, descriptor: number): Logger {
  const { logLevel, adminToken, storage } = config
  const keys = storage.kind === 's3' ? [storage.secretAccessKey] : []
  const secrets = [adminToken, ...keys]
    .filter(secret => secret !== undefined && secret.length >= MIN_SECRET_LENGTH)
    // As it stands in JSON.
    .map(secret => JSON.stringify(secret).slice(1, -1))
  const options = {
    level: logLevel,
    // Bytes of a request are logged as numbers, which no pattern knows.
    redact: { paths: ['err.rawPacket'], remove: true },
    hooks: { streamWrite: (line: string) => withoutSecrets(line, secrets) },
  }
  return pino(options, pino.destination(descriptor))
}
