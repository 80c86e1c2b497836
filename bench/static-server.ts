/** Serves a folder with @fastify/static and prints its URL: what a plain file costs. `node bench/static-server.ts FOLDER` */
import fastifyStatic from '@fastify/static'
import { fastify } from 'fastify'

const app = fastify()
await app.register(fastifyStatic, { root: process.argv[2]! })
process.stdout.write(`${await app.listen({ port: 0, host: '127.0.0.1' })}\n`)
