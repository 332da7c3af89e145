import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Paths;
import java.security.Permission;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Runs the stock command line tools of Apache Kafka one after the other in one JVM, as starting a JVM
 * costs more than most commands. A line of standard input is a command, separated by tabs:
 *
 *     DIRECTORY  CLASS  ARGUMENT...
 *
 * The class's main gets DIRECTORY/stdin and writes DIRECTORY/stdout and DIRECTORY/stderr; its end is
 * answered by a line: its exit code. A command sees what it would see in a JVM of its own: the tools'
 * classes are loaded anew (they keep state in static fields), System.exit ends the command only, and
 * the shutdown hooks that it added then run (the console producer flushes in one).
 *
 * Needs -Djava.security.manager=allow and --add-opens java.base/java.lang=ALL-UNNAMED; Java 11 to 23.
 */
public final class StockTools {
    /** System.exit within a command. */
    private static final class Exit extends Error {
        Exit(int code) {
            super("exit " + code, null, false, false);
        }
    }

    /** The streams and the exit code of the command that runs. */
    private static final class Command {
        final InputStream input;
        final OutputStream output;
        final OutputStream errors;
        private Integer code;
        /** Called System.exit, so does not run any more; what it still prints while it unwinds is dropped. */
        private Thread exited;

        Command(String directory) throws IOException {
            input = new BufferedInputStream(new FileInputStream(directory + "/stdin"));
            output = new BufferedOutputStream(new FileOutputStream(directory + "/stdout"));
            errors = new BufferedOutputStream(new FileOutputStream(directory + "/stderr"));
        }

        synchronized void end(int status) {
            if (code == null) {
                code = status;
                notifyAll();
            }
        }

        synchronized Exit exit(int status) {
            if (code == null) {
                exited = Thread.currentThread();
            }
            end(status);
            return new Exit(code);
        }

        synchronized boolean hears(Thread thread) {
            return thread != exited;
        }

        synchronized int await() throws InterruptedException {
            while (code == null) {
                wait();
            }
            return code;
        }

        void close() throws IOException {
            input.close();
            output.close();
            errors.close();
        }
    }

    /** Loads the tools' own classes itself, each time anew, and leaves libraries to the parent. */
    private static final class Tools extends URLClassLoader {
        Tools(URL[] path) {
            super(path, StockTools.class.getClassLoader());
        }

        @Override
        protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
            if (!name.startsWith("kafka.") && !name.startsWith("org.apache.kafka.tools.")) {
                return super.loadClass(name, resolve);
            }
            synchronized (getClassLoadingLock(name)) {
                Class<?> loaded = findLoadedClass(name);
                return loaded != null ? loaded : findClass(name);
            }
        }
    }

    /** How long the thread that called System.exit may take to its end: its finally blocks run. */
    private static final long UNWIND_MS = 5000;

    private static volatile Command current;

    private StockTools() {
    }

    public static void main(String[] words) throws Exception {
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream answers = System.out;
        System.setIn(input());
        System.setOut(output(false));
        System.setErr(output(true));
        System.setSecurityManager(guard());
        URL[] path = path();
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            String[] parts = line.split("\t", -1);
            Command command = new Command(parts[0]);
            current = command;
            int code = run(command, path, parts[1], Arrays.copyOfRange(parts, 2, parts.length));
            current = null;
            command.close();
            answers.println(code);
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    private static URL[] path() throws IOException {
        List<URL> urls = new ArrayList<>();
        for (String entry : System.getProperty("java.class.path").split(":")) {
            urls.add(Paths.get(entry).toUri().toURL());
        }
        return urls.toArray(new URL[0]);
    }

    private static int run(Command command, URL[] path, String name, String[] arguments) throws Exception {
        Set<Thread> hooksBefore = hooks();
        Set<Thread> threadsBefore = Thread.getAllStackTraces().keySet();
        Thread thread = new Thread(() -> {
            try {
                Tools tools = new Tools(path);
                Thread.currentThread().setContextClassLoader(tools);
                tools.loadClass(name).getMethod("main", String[].class).invoke(null, (Object) arguments);
                for (Thread left : left(threadsBefore)) {
                    left.join(); // as a JVM does whose main has returned
                }
                command.end(0);
            } catch (InvocationTargetException thrown) {
                if (!(thrown.getCause() instanceof Exit)) {
                    thrown.getCause().printStackTrace();
                    command.end(1);
                }
            } catch (ReflectiveOperationException | InterruptedException error) {
                error.printStackTrace();
                command.end(1);
            }
        }, "main");
        thread.start();
        int code = command.await();
        Set<Thread> added = hooks();
        added.removeAll(hooksBefore);
        for (Thread hook : added) {
            Runtime.getRuntime().removeShutdownHook(hook);
            hook.start();
        }
        for (Thread hook : added) {
            hook.join();
        }
        thread.join(UNWIND_MS);
        return code;
    }

    /** Threads that the command started and that keep a JVM alive. */
    private static List<Thread> left(Set<Thread> before) {
        List<Thread> threads = new ArrayList<>();
        for (Thread thread : Thread.getAllStackTraces().keySet()) {
            if (!thread.isDaemon() && thread != Thread.currentThread() && !before.contains(thread)) {
                threads.add(thread);
            }
        }
        return threads;
    }

    private static Map<Thread, Thread> registered() throws Exception {
        java.lang.reflect.Field field = Class.forName("java.lang.ApplicationShutdownHooks").getDeclaredField("hooks");
        field.setAccessible(true);
        @SuppressWarnings("unchecked")
        Map<Thread, Thread> hooks = (Map<Thread, Thread>) field.get(null);
        return hooks;
    }

    private static Set<Thread> hooks() throws Exception {
        synchronized (Class.forName("java.lang.ApplicationShutdownHooks")) {
            return new HashSet<>(registered().keySet());
        }
    }

    private static SecurityManager guard() {
        return new SecurityManager() {
            @Override
            public void checkExit(int status) {
                Command command = current;
                if (command != null) {
                    throw command.exit(status);
                }
            }

            @Override
            public void checkPermission(Permission permission) {
                // everything else is allowed
            }

            @Override
            public void checkPermission(Permission permission, Object context) {
                // everything else is allowed
            }
        };
    }

    private static InputStream input() {
        return new InputStream() {
            @Override
            public int read() throws IOException {
                return current.input.read();
            }

            @Override
            public int read(byte[] bytes, int from, int length) throws IOException {
                return current.input.read(bytes, from, length);
            }

            @Override
            public int available() throws IOException {
                return current.input.available();
            }
        };
    }

    private static PrintStream output(boolean errors) {
        return new PrintStream(new OutputStream() {
            @Override
            public void write(int value) throws IOException {
                write(new byte[] {(byte) value}, 0, 1);
            }

            @Override
            public void write(byte[] bytes, int from, int length) throws IOException {
                Command command = current;
                if (command != null && command.hears(Thread.currentThread())) {
                    (errors ? command.errors : command.output).write(bytes, from, length);
                }
            }
        }, true, StandardCharsets.UTF_8);
    }
}
