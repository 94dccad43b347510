// Verifies assertions of sockgate with npm jose, as an upstream would:
// assertion.mjs JWKS-URL TOKEN...; one line each, {"header", "claims"} or "refused".
import { webcrypto } from "node:crypto";
import { createRemoteJWKSet, jwtVerify } from "jose";

globalThis.crypto ??= webcrypto; // not there in Node 18

const [url, ...tokens] = process.argv.slice(2);
const keys = createRemoteJWKSet(new URL(url));
for (const token of tokens) {
  try {
    const { protectedHeader, payload } = await jwtVerify(token, keys, {
      issuer: "sockgate",
      audience: "chat",
      typ: "sockgate+jwt",
      requiredClaims: ["sub", "iat", "nbf", "exp", "jti", "route"],
    });
    console.log(JSON.stringify({ header: protectedHeader, claims: payload }));
  } catch (error) {
    // Anything else is a fault of this test.
    if (!/^ERR_J/.test(error.code ?? "")) throw error;
    console.log(JSON.stringify("refused"));
  }
}
