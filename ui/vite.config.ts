import { defineConfig } from "vitest/config";

// One module, styles within: Airflow imports it by its address, and nothing else has to be found.
export default defineConfig({
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../plugins/results",
    emptyOutDir: false,
    target: "es2022",
    lib: { entry: "src/host.ts", formats: ["iife"], name: "flywheelResults", fileName: () => "page.js" },
    license: false,
    rolldownOptions: {
      output: {
        banner:
          "/*! Built from ui/ by `npm run build`. Contains Preact (MIT) and modules of D3 (ISC). */",
      },
    },
  },
  test: { include: ["tests/**/*.test.ts"], environment: "node" },
});
