import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** Prints the status and body of each of several answers: once as the client comes (it offers h2c), once as HTTP/1.1. */
public class Jdk {
  public static void main(String[] given) throws Exception {
    for (HttpClient client : new HttpClient[] {
          HttpClient.newHttpClient(),
          HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build()}) {
      for (int at = 1; at < given.length; at++) {
        HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
            .header("content-type", "application/json")
            .expectContinue(at == given.length - 1)
            .POST(HttpRequest.BodyPublishers.ofString(given[at])).build();
        var answer = client.send(request, BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body());
      }
    }
  }
}
