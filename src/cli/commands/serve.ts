import { command } from '../command.ts'

/** `wdelta serve`: runs the registry. */
export const serve = command({
  usage: 'serve',
  help: `Runs the registry until SIGTERM or SIGINT. It is configured by environment variables (HOST, PORT, DATA_DIR, …): see README.md.`,
  options: {},
  positionals: [0, 0],
  run: async () => {
    await (await import('../../main.ts')).serve()
  },
})
