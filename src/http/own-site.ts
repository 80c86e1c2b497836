import { BlockList, isIPv4, isIPv6 } from 'node:net'
import { hostname } from 'node:os'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { RegistryError } from '../errors.ts'

/** Under which hosts a registry without tokens is reached. */
export interface Site {
  /** The name or address that it listens on. */
  readonly host: string
  /** Whether only this machine can reach it. */
  readonly isLoopback: boolean
  /** `PUBLIC_URL`: the address that clients use, behind a proxy or in a network with names of its own. */
  readonly publicUrl?: string | undefined
}

/** Routes open to any host: probes use any name, and the answers are no secret. */
const OPEN_ROUTES = new Set(['/healthz', '/readyz'])
/** Pages that links on other sites may lead to: they hold none of the registry's data. */
const PAGE_ROUTE = /^\/(docs(\/.*)?)?$/
/** Values of `Sec-Fetch-Site` for requests in which no other site had a part. */
const OWN_FETCHES: readonly unknown[] = [undefined, 'same-origin', 'none']

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8)
LOOPBACK.addAddress('::1', 'ipv6')

/**
 * Refuses requests that a web page of another site made a browser send: without tokens, everyone who can reach the registry is let in, and so are
 * the browsers on its machine and in its network. Throws RegistryError `cross-site`, or `bad-request` for a request without `Host`.
 *
 * A page has two ways to reach the registry. Under the page's own name, once its DNS server gives the registry's address for it: then `Host` is that
 * name. Or under the registry's name: then `Origin` or `Sec-Fetch-Site` tells, and pages cannot forge them. The port of `Host` is not compared with
 * the one listened on: tunnels and containers change it, and DNS cannot.
 */
export function refuseOtherSites(app: FastifyInstance, site: Site): void {
  const isOwn = ownHosts(site)
  const publicOrigin = site.publicUrl === undefined ? null : new URL(site.publicUrl).origin
  app.addHook('onRequest', async request => {
    if (OPEN_ROUTES.has(request.routeOptions.url ?? '')) return
    const { host, origin } = request.headers
    if (host === undefined) throw new RegistryError('bad-request', 'expected a Host header')
    for (const named of [host, ...targetHost(request)]) {
      if (!isOwn(named)) throw otherHost(named)
    }
    if (origin !== undefined && origin !== publicOrigin && !isSameOrigin(origin, host)) {
      throw new RegistryError(
        'cross-site',
        `expected no Origin but this registry's own, got ${origin}`,
      )
    }
    const from = request.headers['sec-fetch-site']
    if (OWN_FETCHES.includes(from) || isVisit(request)) return
    throw new RegistryError(
      'cross-site',
      `expected no request from another site's page, got Sec-Fetch-Site: ${from}`,
    )
  })
}

/** Refuses a request with several `Host` headers: Node keeps the first, a proxy maybe the last, so one check proves nothing. Throws `bad-request`. */
export function refuseTwoHosts(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ raw: { rawHeaders } }) => {
    const hosts = rawHeaders.filter((name, i) => i % 2 === 0 && name.toLowerCase() === 'host')
    if (hosts.length <= 1) return
    throw new RegistryError('bad-request', `expected one Host header, got ${hosts.length}`)
  })
}

/** A function that tells whether a `Host` is one of the registry's. */
function ownHosts({ host, isLoopback, publicUrl }: Site): (host: string) => boolean {
  const names = new Set([host.toLowerCase()])
  if (publicUrl !== undefined) names.add(nameOf(new URL(publicUrl).host) ?? '')
  if (!isLoopback) names.add(hostname().toLowerCase())
  return given => {
    const name = nameOf(given)
    if (name === null) return false
    if (names.has(name) || name === 'localhost' || name.endsWith('.localhost')) return true
    const version = isIPv4(name) ? 'ipv4' : isIPv6(name) ? 'ipv6' : null
    // No DNS server can answer for an address, and no public one for a name without a dot.
    if (!isLoopback) return version !== null || !name.includes('.')
    return version !== null && LOOPBACK.check(name, version)
  }
}

/** The name or address in a `Host`, in lower case, without port, brackets, zone and final dot; null if it is malformed. */
function nameOf(host: string): string | null {
  const found = /^(?:\[([\da-f:.]+)(?:%[^\]]*)?\]|([^\s:@/?#[\]\\,]+?)\.?)(?::\d{0,5})?$/i.exec(
    host,
  )
  return (found?.[1] ?? found?.[2])?.toLowerCase() ?? null
}

/** The host of a request target like `http://host/path`, which overrides the header. */
function targetHost({ raw: { url = '' } }: FastifyRequest): string[] {
  const found = /^[a-z][\w+.-]*:\/\/([^/?#]*)/i.exec(url)
  return found ? [found[1]!] : []
}

/** Whether a page of this origin was loaded from the host that it now asks. The schemes may differ, as a proxy may add TLS. */
function isSameOrigin(origin: string, host: string): boolean {
  if (!/^https?:\/\//.test(origin) || !URL.canParse(origin)) return false
  const page = new URL(origin)
  const asked = `${page.protocol}//${host}`
  return URL.canParse(asked) && new URL(asked).host === page.host
}

/** Whether the request is for a page, by a link that a user followed. */
function isVisit({ method, headers, url }: FastifyRequest): boolean {
  return (
    method === 'GET' &&
    headers['sec-fetch-mode'] === 'navigate' &&
    headers['sec-fetch-dest'] === 'document' &&
    PAGE_ROUTE.test(url.replace(/[?#].*$/s, ''))
  )
}

function otherHost(host: string): RegistryError {
  return new RegistryError(
    'cross-site',
    `expected the Host of this registry, got ${JSON.stringify(host)}; if clients reach it under this name, set PUBLIC_URL to the address that they use`,
  )
}
