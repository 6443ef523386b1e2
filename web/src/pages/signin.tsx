// The sign-in page.

import { Button, Code, Paper, PasswordInput, Stack, Text, Title } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { signIn } from "../api/client";
import { ErrorBox } from "../parts/basics";

export function SignIn() {
  const client = useQueryClient();
  const [token, setToken] = useState("");
  const enter = useMutation({
    mutationFn: signIn,
    onSuccess: () => client.invalidateQueries({ queryKey: ["session"] }),
  });
  const isUsed = new URLSearchParams(window.location.search).has("used");
  useEffect(() => {
    document.title = "Sign in – Archivist";
  }, []);
  return (
    <main style={{ maxWidth: 480, margin: "8vh auto", padding: 16 }}>
      <Paper withBorder p="xl">
        <Stack>
          <img src="/ui/icon.svg" alt="" width={48} height={48} />
          <Title order={1} size="h3">
            Sign in
          </Title>
          {isUsed && (
            <ErrorBox error="This link has already been used or has expired. Create a new one." />
          )}
          <Text>
            On the computer that Archivist runs on, run <Code>archivist ui</Code> and open the link
            that it prints. The link works once.
          </Text>
          <form
            onSubmit={(event) => {
              event.preventDefault();
              enter.mutate(token);
            }}
          >
            <Stack gap="sm">
              <PasswordInput
                label="Or paste the token"
                description="The contents of the file api-token in the data directory, usually ~/.local/share/archivist/api-token."
                value={token}
                onChange={(event) => setToken(event.currentTarget.value)}
                autoComplete="off"
              />
              <ErrorBox error={enter.error} />
              <Button
                type="submit"
                variant="filled"
                loading={enter.isPending}
                disabled={!token.trim()}
              >
                Sign in
              </Button>
            </Stack>
          </form>
        </Stack>
      </Paper>
    </main>
  );
}
