import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// The program serves the built files under /ui/. It replaces CSP_NONCE by a new
// nonce each time it serves the page.
export default defineConfig({
  base: "/ui/",
  html: { cspNonce: "CSP_NONCE" },
  plugins: [react()],
  build: { target: "es2022", assetsInlineLimit: 0, chunkSizeWarningLimit: 1500 },
  server: { proxy: { "/api": "http://127.0.0.1:8080", "/ui/login": "http://127.0.0.1:8080" } },
  test: { environment: "node", include: ["src/**/*.test.ts"], env: { TZ: "UTC" } },
});
