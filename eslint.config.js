import js from "@eslint/js";
import { createTypeScriptImportResolver } from "eslint-import-resolver-typescript";
import importX from "eslint-plugin-import-x";
import tseslint from "typescript-eslint";

/**
 * The rooms of docs/ARCHITECTURE.md and what each may import. A room may always import itself.
 * What is not listed is forbidden.
 * @type {Record<string, string[]>}
 */
const rooms = {
  domain: [],
  platform: ["domain"],
  "sources/decode": ["domain"],
  "sources/jwks": ["domain", "platform"],
  "sources/files": ["domain", "platform", "sources/decode"],
  "sources/kube": ["domain", "platform", "sources/decode"],
  controllers: ["domain", "platform", "sources/decode", "sources/kube"],
  manifests: ["domain", "ca", "controllers", "sources/decode", "sources/kube"],
  model: ["domain"],
  compile: ["domain", "model"],
  xds: ["domain", "platform", "compile", "gen"],
  ca: ["domain", "platform", "gen"],
  node: ["domain", "platform", "sources/decode", "sources/files", "sources/kube", "xds", "ca", "gen"],
  cli: ["domain", "platform", "sources/decode", "sources/files"],
};

const zones = Object.entries(rooms).flatMap(([room, allowed]) => [
  {
    target: `./src/${room}`,
    from: "./src",
    except: [...new Set([room, ...allowed])].map((name) => `./${name}`),
    message: `src/${room} may import only: ${[room, ...allowed].join(", ")} (docs/ARCHITECTURE.md).`,
  },
]);

export default tseslint.config(
  { ignores: ["dist/", "target/", "src/gen/", "native/", "node_modules/", ".cache/", "coverage/"] },
  js.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [...tseslint.configs.strictTypeChecked],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    plugins: { "import-x": importX },
    settings: { "import-x/resolver-next": [createTypeScriptImportResolver()] },
    rules: {
      "import-x/no-restricted-paths": ["error", { zones }],
      "@typescript-eslint/restrict-template-expressions": [
        "error",
        { allowNumber: true, allowBoolean: true },
      ],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      "@typescript-eslint/switch-exhaustiveness-check": [
        "error",
        { considerDefaultExhaustiveForUnions: true },
      ],
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "@typescript-eslint/no-unnecessary-condition": ["error", { allowConstantLoopConditions: true }],
      eqeqeq: "error",
      "no-console": "error",
    },
  },
  {
    // Only these name the generated code: everything else sees the domain's own types.
    files: ["src/**/*.ts"],
    ignores: [
      "src/gen/**",
      "src/xds/**",
      "src/ca/service/**",
      "src/node/zds/**",
      "src/node/relay/**",
      "src/node/keys/**",
      "src/node/cri/**",
    ],
    rules: {
      "no-restricted-imports": [
        "error",
        { patterns: [{ group: ["**/gen/**"], message: "Only encode/decode files import generated code." }] },
      ],
    },
  },
  {
    files: [
      "**/*.test.ts",
      "demo/**/*.ts",
      "bench/**/*.ts",
      "interop/**/*.ts",
      "e2e/**/*.ts",
      "test/**/*.ts",
      "src/cli/**/*.ts",
      "src/main/**/*.ts",
    ],
    rules: { "no-console": "off" },
  },
  {
    files: ["**/*.test.ts", "test/**/*.ts"],
    rules: {
      "@typescript-eslint/no-non-null-assertion": "off",
      "@typescript-eslint/unbound-method": "off",
    },
  },
  {
    files: ["**/*.js", "**/*.mjs"],
    languageOptions: {
      globals: {
        process: "readonly",
        console: "readonly",
        URL: "readonly",
        setTimeout: "readonly",
        clearInterval: "readonly",
        setInterval: "readonly",
      },
    },
  },
);
