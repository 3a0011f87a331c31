# syntax=docker/dockerfile:1

FROM node:24-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
# Without the manifest of the client, npm would also install its generator.
COPY packages/client/package.json packages/client/
# The optional dependencies are Node itself, which the image has.
RUN npm ci --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund

FROM node:24-slim
# Threads for files, gzip and lookups of the operator's hosts, as in `npm start`.
ENV NODE_ENV=production HOST=0.0.0.0 PORT=3000 UV_THREADPOOL_SIZE=8
WORKDIR /app
COPY --from=dependencies /app/node_modules node_modules
COPY package.json openapi.yaml ./
COPY migrations migrations
COPY src src
USER node
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["node", "--eval", "fetch(`http://127.0.0.1:${process.env.PORT}/health/live`).then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# Migrations first, in a run of their own: docker run … node src/cli/migrate.ts
# The flag is that of `npm start`: see "Memory" in docs/performance.md.
CMD ["node", "--max-semi-space-size=4", "src/main.ts"]
