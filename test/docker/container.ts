import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import { parse } from 'yaml'

const run = promisify(execFile)
/** Far more than a service takes until it is healthy. */
const HEALTHY_MS = 60_000
/** Between two health checks. */
const POLL_MS = 100

/** An image, unpacked. */
export interface Image {
  /** The folder that is its file system. */
  readonly root: string
  readonly config: ImageConfig
}

/** In Docker's words. */
export interface ImageConfig {
  readonly User?: string
  readonly Env: readonly string[]
  readonly Cmd?: readonly string[]
  readonly WorkingDir?: string
  readonly Healthcheck?: { readonly Test: readonly string[] }
}

export interface Compose {
  readonly services: Readonly<Record<string, Service>>
  readonly secrets?: Readonly<Record<string, { readonly file: string }>>
}

/** What a compose file says of a service, as far as it can be followed here. */
export interface Service {
  readonly entrypoint?: readonly string[]
  readonly command?: readonly string[]
  readonly environment?: Readonly<Record<string, string>>
  readonly healthcheck?: { readonly test: readonly string[] }
  readonly secrets?: readonly string[]
  /** `VOLUME:PATH`. */
  readonly volumes?: readonly string[]
  readonly tmpfs?: readonly string[]
  readonly read_only?: boolean
  readonly cap_drop?: readonly string[]
  readonly security_opt?: readonly string[]
}

/** What a service finds around it. */
export interface Surroundings {
  /** The folder of each volume, made where it lacks. */
  readonly volumes: Readonly<Record<string, string>>
  /** The file of each secret. */
  readonly secrets?: Readonly<Record<string, string>>
  /** The container whose network it shares. Without one it has a network of its own, with nothing outside. */
  readonly beside?: Container
  /** Names of services: all are reached on the loopback of their network. */
  readonly hosts?: readonly string[]
}

export interface Container {
  readonly pid: number
  /** Resolves once its health check succeeds. Rejects with its output if it ends before. */
  healthy(): Promise<void>
  /** Runs a command inside as `user`, by default that of the image, and gives what it printed. Rejects where it fails. */
  exec(command: readonly string[], user?: string): Promise<string>
  /** Runs curl on its network and gives what it printed. An error status of the server is a rejection. */
  curl(...args: string[]): Promise<string>
  /** Ends it with SIGTERM and resolves with its exit code, or null after a signal. */
  stop(): Promise<number | null>
  /** Ends it with SIGKILL. */
  kill(): Promise<void>
}

/** Reads a compose file, where `$$` is a `$`. Throws for a variable: nothing here would fill it in. */
export function readCompose(path: string): Compose {
  return parse(readFileSync(path, 'utf8'), (_, value) => {
    if (typeof value !== 'string') return value
    if (value.replaceAll('$$', '').includes('$')) throw new Error(`a variable in ${value}`)
    return value.replaceAll('$$', '$')
  })
}

/**
 * Starts a service of a compose file as Docker would, but for `init`: in namespaces of its own, with mounts over the image, chroot and
 * setpriv. By hand, because `buildah run` leaves the file system writable. Mounts and network go with the last process in them.
 */
export function startService(service: Service, image: Image, around: Surroundings): Container {
  const { root, config } = image
  const command = [...(service.entrypoint ?? []), ...(service.command ?? config.Cmd ?? [])]
  const steps = [
    ...(around.beside ? [] : [['busybox', 'ip', 'link', 'set', 'lo', 'up']]),
    ...mountsOf(service, root, around),
    ['exec', 'chroot', root, ...rightsOf(service, config), ...command],
  ]
  const [program, ...namespaces]: [string, ...string[]] = around.beside
    ? ['nsenter', `--target=${around.beside.pid}`, '--net', 'unshare']
    : ['unshare', '--net']
  const script = ['--mount', 'sh', '-euc', steps.map(quote).join('\n')]
  const child = spawn(program, [...namespaces, ...script], { stdio: ['ignore', 'pipe', 'pipe'] })
  const pid = child.pid!
  const output: Buffer[] = []
  for (const stream of [child.stdout, child.stderr]) stream.on('data', data => output.push(data))
  const ended = once(child, 'close').then(([code]) => code as number | null)

  const enter = async (...args: readonly string[]) => {
    const { stdout } = await run('nsenter', [`--target=${pid}`, '--net', ...args])
    return stdout
  }
  const exec = (words: readonly string[], user?: string) =>
    enter('--mount', '--root', ...rightsOf(service, config, user), ...words)
  const succeeds = (words: readonly string[]) =>
    exec(words).then(
      () => true,
      () => false,
    )
  const end = (signal: NodeJS.Signals) => {
    child.kill(signal)
    return ended
  }
  return {
    pid,
    healthy: async () => {
      const [kind, ...words] = service.healthcheck?.test ?? config.Healthcheck?.Test ?? []
      if (kind !== 'CMD') throw new Error('no health check that is a command')
      const until = performance.now() + HEALTHY_MS
      for (;;) {
        // Until the process is below its root, commands would run outside.
        if (isRoot(pid, root) && (await succeeds(words))) return
        const why = child.exitCode ?? child.signalCode ?? (performance.now() > until && 'too late')
        if (why !== false) throw new Error(`not healthy, ${why}:\n${Buffer.concat(output)}`)
        await setTimeout(POLL_MS)
      }
    },
    exec,
    curl: (...args) => enter('curl', '-sS', '--fail-with-body', '--max-time', '120', ...args),
    stop: () => end('SIGTERM'),
    kill: async () => void (await end('SIGKILL')),
  }
}

/** The commands that mount what a service sees below `root`, which becomes a mount itself. */
function mountsOf(service: Service, root: string, around: Surroundings): string[][] {
  const { volumes, secrets = {}, hosts = [] } = around
  const mounts = [['mount', '--bind', root, root]]
  for (const path of ['/proc', '/dev']) mounts.push(['mount', '--rbind', path, join(root, path)])
  for (const path of service.tmpfs ?? []) {
    mounts.push(['mount', '-t', 'tmpfs', 'tmpfs', join(root, path)])
  }
  for (const volume of service.volumes ?? []) {
    const [name, path] = volume.split(':') as [string, string]
    const [source, target] = [volumes[name]!, join(root, path)]
    mkdirSync(target, { recursive: true })
    // As Docker does: a volume that is new belongs to whom its place in the image belongs to.
    if (mkdirSync(source, { recursive: true })) {
      const { uid, gid } = statSync(target)
      chownSync(source, uid, gid)
    }
    mounts.push(['mount', '--bind', source, target])
  }
  for (const name of service.secrets ?? []) {
    const target = join(root, 'run/secrets', name)
    mkdirSync(dirname(target), { recursive: true })
    writeFileSync(target, '')
    mounts.push(['mount', '--bind', secrets[name]!, target])
    mounts.push(['mount', '-o', 'remount,bind,ro', target])
  }
  writeFileSync(join(root, 'etc/hosts'), `127.0.0.1 ${['localhost', ...hosts].join(' ')}\n`)
  if (service.read_only) mounts.push(['mount', '-o', 'remount,bind,ro', root])
  return mounts
}

/** The words before a command that give it what the service and its image say: rights, environment and folder. */
function rightsOf(service: Service, { User, Env, WorkingDir }: ImageConfig, user = User): string[] {
  const words = ['setpriv', '--inh-caps=-all']
  if (user) words.push(`--reuid=${user}`, `--regid=${user}`, '--init-groups')
  if (service.cap_drop?.includes('ALL')) words.push('--bounding-set=-all')
  if (service.security_opt?.includes('no-new-privileges:true')) words.push('--no-new-privs')
  const given = Object.entries(service.environment ?? {}).map(pair => pair.join('='))
  return [...words, 'env', '-i', `--chdir=${WorkingDir || '/'}`, ...Env, ...given]
}

function isRoot(pid: number, folder: string): boolean {
  const [found, wanted] = [`/proc/${pid}/root`, folder].map(path =>
    statSync(path, { throwIfNoEntry: false }),
  )
  return found?.ino === wanted?.ino && found?.dev === wanted?.dev
}

/** Words as a shell reads them. */
function quote(words: readonly string[]): string {
  return words.map(word => `'${word.replaceAll("'", `'\\''`)}'`).join(' ')
}
